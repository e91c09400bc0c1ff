//! Answers of our own to what no rule allows: the protocol's errors of authorization, in the form that the request's version has.
use super::{
    request::{About, Request, Topic, is_flexible, key},
    wire::Writer,
};

/// Nobody may use this topic.
pub const TOPIC_DENIED: i16 = 29;
/// Nobody may use this group.
pub const GROUP_DENIED: i16 = 30;
/// Nobody may ask this.
pub const CLUSTER_DENIED: i16 = 31;

/// A denial as a frame and the error that it holds; `None` for requests that have no such answer in a form known here: their
/// connection ends.
#[must_use]
pub fn denied(request: &Request<'_>) -> Option<(i16, Vec<u8>)> {
    let version = request.api_version;
    let mut writer = Writer::new(is_flexible(request.api_key, version));
    writer.i32(request.correlation_id);
    // The one answer whose head never has tags: it comes before anybody knows what the other understands.
    if request.api_key != key::API_VERSIONS {
        writer.tags();
    }
    let topics = match &request.about {
        About::Topics(topics) => topics.as_slice(),
        About::Nothing => &[],
        // What was not read cannot be repeated; of some requests it need not be.
        About::Unknown if matches!(request.api_key, key::METADATA | key::OFFSET_FETCH) => &[],
        About::Unknown => return None,
    };
    let error = match request.api_key {
        key::PRODUCE if version <= 12 => produce(&mut writer, version, topics),
        key::FETCH if version <= 12 => fetch(&mut writer, version, topics),
        key::LIST_OFFSETS if version <= 10 => list_offsets(&mut writer, version, topics),
        key::METADATA if version <= 13 => metadata(&mut writer, version, topics),
        key::OFFSET_COMMIT if version <= 9 => offset_commit(&mut writer, version, topics),
        key::OFFSET_FETCH if version <= 7 => offset_fetch(&mut writer, version, topics),
        10 if version <= 3 => find_coordinator(&mut writer, version),
        11 if version <= 9 => join_group(&mut writer, version),
        12 if version <= 4 => group_error(&mut writer, version),
        13 if version <= 5 => leave_group(&mut writer, version),
        14 if version <= 5 => sync_group(&mut writer, version),
        key::API_VERSIONS if version <= 4 => api_versions(&mut writer, version),
        22 if version <= 5 => init_producer(&mut writer),
        _ => return None,
    };
    writer.tags();
    Some((error, writer.finish()))
}

/// Topics of an answer, each partition by `partition`.
fn each(writer: &mut Writer, topics: &[Topic<'_>], partition: impl Fn(&mut Writer, i32)) {
    writer.array(topics.len());
    for topic in topics {
        writer.string(topic.name);
        writer.array(topic.partitions.len());
        for index in &topic.partitions {
            partition(writer, *index);
            writer.tags();
        }
        writer.tags();
    }
}

fn produce(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    each(writer, topics, |writer, index| {
        writer.i32(index);
        writer.i16(TOPIC_DENIED);
        writer.i64(-1);
        if version >= 2 {
            writer.i64(-1);
        }
        if version >= 5 {
            writer.i64(-1);
        }
        if version >= 8 {
            writer.array(0);
            writer.no_string();
        }
    });
    if version >= 1 {
        writer.i32(0);
    }
    TOPIC_DENIED
}

fn fetch(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    if version >= 1 {
        writer.i32(0);
    }
    if version >= 7 {
        writer.i16(0);
        writer.i32(0);
    }
    each(writer, topics, |writer, index| {
        writer.i32(index);
        writer.i16(TOPIC_DENIED);
        writer.i64(-1);
        if version >= 4 {
            writer.i64(-1);
        }
        if version >= 5 {
            writer.i64(-1);
        }
        if version >= 4 {
            writer.nothing();
        }
        if version >= 11 {
            writer.i32(-1);
        }
        writer.nothing();
    });
    TOPIC_DENIED
}

fn list_offsets(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    if version >= 2 {
        writer.i32(0);
    }
    each(writer, topics, |writer, index| {
        writer.i32(index);
        writer.i16(TOPIC_DENIED);
        if version == 0 {
            writer.array(0);
        } else {
            writer.i64(-1);
            writer.i64(-1);
        }
        if version >= 4 {
            writer.i32(-1);
        }
    });
    TOPIC_DENIED
}

fn metadata(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    if version >= 3 {
        writer.i32(0);
    }
    writer.array(0);
    if version >= 2 {
        writer.no_string();
    }
    if version >= 1 {
        writer.i32(-1);
    }
    writer.array(topics.len());
    for topic in topics {
        writer.i16(TOPIC_DENIED);
        writer.string(topic.name);
        if version >= 10 {
            writer.raw(&[0; 16]);
        }
        if version >= 1 {
            writer.raw(&[0]);
        }
        writer.array(0);
        if version >= 8 {
            writer.i32(i32::MIN);
        }
        writer.tags();
    }
    if (8..=10).contains(&version) {
        writer.i32(i32::MIN);
    }
    if version >= 13 {
        writer.i16(0);
    }
    TOPIC_DENIED
}

fn offset_commit(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    if version >= 3 {
        writer.i32(0);
    }
    each(writer, topics, |writer, index| {
        writer.i32(index);
        writer.i16(TOPIC_DENIED);
    });
    TOPIC_DENIED
}

fn offset_fetch(writer: &mut Writer, version: i16, topics: &[Topic<'_>]) -> i16 {
    if version >= 3 {
        writer.i32(0);
    }
    each(writer, topics, |writer, index| {
        writer.i32(index);
        writer.i64(-1);
        if version >= 5 {
            writer.i32(-1);
        }
        writer.string("");
        writer.i16(TOPIC_DENIED);
    });
    if version >= 2 {
        writer.i16(if topics.is_empty() { GROUP_DENIED } else { 0 });
    }
    TOPIC_DENIED
}

fn group_error(writer: &mut Writer, version: i16) -> i16 {
    if version >= 1 {
        writer.i32(0);
    }
    writer.i16(GROUP_DENIED);
    GROUP_DENIED
}

fn find_coordinator(writer: &mut Writer, version: i16) -> i16 {
    group_error(writer, version);
    if version >= 1 {
        writer.no_string();
    }
    writer.i32(-1);
    writer.string("");
    writer.i32(-1);
    GROUP_DENIED
}

fn join_group(writer: &mut Writer, version: i16) -> i16 {
    group_error(writer, version - 1);
    writer.i32(-1);
    if version >= 7 {
        writer.no_string();
    }
    writer.string("");
    writer.string("");
    if version >= 9 {
        writer.raw(&[0]);
    }
    writer.string("");
    writer.array(0);
    GROUP_DENIED
}

fn leave_group(writer: &mut Writer, version: i16) -> i16 {
    group_error(writer, version);
    if version >= 3 {
        writer.array(0);
    }
    GROUP_DENIED
}

fn sync_group(writer: &mut Writer, version: i16) -> i16 {
    group_error(writer, version);
    if version >= 5 {
        writer.no_string();
        writer.no_string();
    }
    // No bytes are written as an array without elements.
    writer.array(0);
    GROUP_DENIED
}

fn api_versions(writer: &mut Writer, version: i16) -> i16 {
    writer.i16(CLUSTER_DENIED);
    writer.array(0);
    if version >= 1 {
        writer.i32(0);
    }
    CLUSTER_DENIED
}

fn init_producer(writer: &mut Writer) -> i16 {
    writer.i32(0);
    writer.i16(CLUSTER_DENIED);
    writer.i64(-1);
    writer.i16(-1);
    CLUSTER_DENIED
}
