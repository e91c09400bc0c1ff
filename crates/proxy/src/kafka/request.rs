//! What a request says of itself and of its topics, for those whose topics rules can name.
use super::wire::{Malformed, Reader};

type Result<T> = std::result::Result<T, Malformed>;

/// First flexible version of each request, by its number.
const FLEXIBLE: [i16; 38] = [
    9,
    12,
    6,
    9,
    4,
    2,
    6,
    3,
    8,
    6,
    3,
    6,
    4,
    4,
    4,
    5,
    3,
    i16::MAX,
    3,
    5,
    4,
    2,
    2,
    4,
    3,
    3,
    3,
    1,
    3,
    2,
    2,
    2,
    4,
    2,
    2,
    2,
    2,
    2,
];

/// Numbers of requests.
pub(super) mod key {
    pub(in super::super) const PRODUCE: i16 = 0;
    pub(in super::super) const FETCH: i16 = 1;
    pub(in super::super) const LIST_OFFSETS: i16 = 2;
    pub(in super::super) const METADATA: i16 = 3;
    pub(in super::super) const OFFSET_COMMIT: i16 = 8;
    pub(in super::super) const OFFSET_FETCH: i16 = 9;
    pub(in super::super) const API_VERSIONS: i16 = 18;
}

/// Requests about topics whose own form is not read: rules that name a topic allow none of them.
const OTHER_TOPICS: [i16; 17] = [
    4, 5, 6, 19, 20, 21, 23, 24, 25, 27, 28, 32, 33, 34, 35, 37, 7,
];

/// Newest versions whose topics are read: later ones name topics by numbers alone, or have another form.
pub(super) fn newest(api_key: i16) -> Option<i16> {
    Some(match api_key {
        key::PRODUCE | key::FETCH => 12,
        key::LIST_OFFSETS => 10,
        key::METADATA => 13,
        key::OFFSET_COMMIT => 9,
        key::OFFSET_FETCH => 7,
        _ => return None,
    })
}

/// Whether a version of a request is flexible.
#[must_use]
pub(super) fn is_flexible(api_key: i16, version: i16) -> bool {
    let first = usize::try_from(api_key)
        .ok()
        .and_then(|at| FLEXIBLE.get(at));
    // What is newer than this list has always been.
    first.is_none_or(|first| version >= *first)
}

/// A request, as it stands in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its kind.
    pub api_key: i16,
    /// Its version.
    pub api_version: i16,
    /// Its number on the connection.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: &'a str,
    /// Its topics.
    pub about: About<'a>,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// Not about topics, or about those that were asked about before.
    Nothing,
    /// These.
    Topics(Vec<Topic<'a>>),
    /// All topics, or such as cannot be told.
    Unknown,
}

/// A topic of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic<'a> {
    /// Its name.
    pub name: &'a str,
    /// Partitions of it.
    pub partitions: Vec<i32>,
}

impl<'a> Request<'a> {
    /// Reads the request of a frame, without the frame's length.
    ///
    /// # Errors
    /// It is malformed where it is read.
    pub fn read(frame: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(frame, false);
        let (api_key, api_version) = (reader.i16()?, reader.i16()?);
        let correlation_id = reader.i32()?;
        if api_key < 0 || api_version < 0 {
            return Err(Malformed);
        }
        // The oldest form of one request between servers has no name in its head.
        let named = !(api_key == 7 && api_version == 0);
        let client_id = if named {
            reader.nullable()?.unwrap_or("")
        } else {
            ""
        };
        reader.flexible = is_flexible(api_key, api_version);
        reader.tags()?;
        Ok(Self {
            api_key,
            api_version,
            correlation_id,
            client_id,
            about: about(&mut reader, api_key, api_version)?,
        })
    }

    /// Whether a producer wants no answer.
    #[must_use]
    pub fn is_unanswered(&self, frame: &[u8]) -> bool {
        self.api_key == key::PRODUCE && acks(frame, self.api_version).is_ok_and(|acks| acks == 0)
    }
}

fn acks(frame: &[u8], version: i16) -> Result<i16> {
    let mut reader = Reader::new(frame, false);
    reader.skip(8)?;
    reader.nullable()?;
    reader.flexible = is_flexible(key::PRODUCE, version);
    reader.tags()?;
    if version >= 3 {
        reader.nullable()?;
    }
    reader.i16()
}

fn about<'a>(reader: &mut Reader<'a>, api_key: i16, version: i16) -> Result<About<'a>> {
    match newest(api_key) {
        Some(newest) if version <= newest => {}
        Some(_) => return Ok(About::Unknown),
        None if OTHER_TOPICS.contains(&api_key) || api_key > 37 => return Ok(About::Unknown),
        None => return Ok(About::Nothing),
    }
    match api_key {
        key::PRODUCE => produce(reader, version),
        key::FETCH => fetch(reader, version),
        key::LIST_OFFSETS => list_offsets(reader, version),
        key::METADATA => metadata(reader, version),
        key::OFFSET_COMMIT => offset_commit(reader, version),
        _ => offset_fetch(reader, version),
    }
}

/// Topics with their partitions, each of which `partition` reads.
fn topics<'a>(
    reader: &mut Reader<'a>,
    partition: impl Fn(&mut Reader<'a>) -> Result<i32>,
) -> Result<Option<Vec<Topic<'a>>>> {
    let Some(count) = reader.array()? else {
        return Ok(None);
    };
    let mut topics = Vec::new();
    for _ in 0..count {
        let name = reader.string()?;
        let mut partitions = Vec::new();
        for _ in 0..reader.array()?.unwrap_or(0) {
            partitions.push(partition(reader)?);
        }
        reader.tags()?;
        topics.push(Topic { name, partitions });
    }
    Ok(Some(topics))
}

fn produce<'a>(reader: &mut Reader<'a>, version: i16) -> Result<About<'a>> {
    if version >= 3 {
        reader.nullable()?;
    }
    reader.skip(2 + 4)?;
    let topics = topics(reader, |reader| {
        let index = reader.i32()?;
        reader.skip_bytes()?;
        reader.tags()?;
        Ok(index)
    })?;
    Ok(About::Topics(topics.unwrap_or_default()))
}

fn fetch<'a>(reader: &mut Reader<'a>, version: i16) -> Result<About<'a>> {
    reader.skip(12)?;
    if version >= 3 {
        reader.skip(4)?;
    }
    if version >= 4 {
        reader.skip(1)?;
    }
    let session = if version >= 7 {
        let session = reader.i32()?;
        reader.skip(4)?;
        session
    } else {
        0
    };
    let behind = 8
        + 4
        + if version >= 5 { 8 } else { 0 }
        + if version >= 9 { 4 } else { 0 }
        + if version >= 12 { 4 } else { 0 };
    let topics = topics(reader, |reader| {
        let index = reader.i32()?;
        reader.skip(behind)?;
        reader.tags()?;
        Ok(index)
    })?;
    Ok(match topics.unwrap_or_default() {
        // The rest of a session that was begun by a request that was allowed.
        topics if topics.is_empty() && session != 0 => About::Nothing,
        topics => About::Topics(topics),
    })
}

fn list_offsets<'a>(reader: &mut Reader<'a>, version: i16) -> Result<About<'a>> {
    reader.skip(if version >= 2 { 5 } else { 4 })?;
    let behind = match version {
        0 => 12,
        1..=3 => 8,
        _ => 12,
    };
    let topics = topics(reader, |reader| {
        let index = reader.i32()?;
        reader.skip(behind)?;
        reader.tags()?;
        Ok(index)
    })?;
    Ok(About::Topics(topics.unwrap_or_default()))
}

fn metadata<'a>(reader: &mut Reader<'a>, version: i16) -> Result<About<'a>> {
    let count = match reader.array()? {
        None => return Ok(About::Unknown),
        // In the oldest form, no topic means all of them.
        Some(0) if version == 0 => return Ok(About::Unknown),
        Some(0) => return Ok(About::Nothing),
        Some(count) => count,
    };
    let mut topics = Vec::new();
    for _ in 0..count {
        if version >= 10 {
            reader.skip(16)?;
        }
        let name = reader.nullable()?;
        reader.tags()?;
        // By its number alone.
        let Some(name) = name else {
            return Ok(About::Unknown);
        };
        topics.push(Topic {
            name,
            partitions: Vec::new(),
        });
    }
    Ok(About::Topics(topics))
}

fn offset_commit<'a>(reader: &mut Reader<'a>, version: i16) -> Result<About<'a>> {
    reader.string()?;
    if version >= 1 {
        reader.skip(4)?;
        reader.string()?;
    }
    if version >= 7 {
        reader.nullable()?;
    }
    if (2..=4).contains(&version) {
        reader.skip(8)?;
    }
    let behind = 8 + if version == 1 { 8 } else { 0 } + if version >= 6 { 4 } else { 0 };
    let topics = topics(reader, |reader| {
        let index = reader.i32()?;
        reader.skip(behind)?;
        reader.nullable()?;
        reader.tags()?;
        Ok(index)
    })?;
    Ok(About::Topics(topics.unwrap_or_default()))
}

fn offset_fetch<'a>(reader: &mut Reader<'a>, _version: i16) -> Result<About<'a>> {
    reader.string()?;
    // Partitions are numbers here, without anything about them.
    let topics = topics(reader, Reader::i32)?;
    Ok(topics.map_or(About::Unknown, About::Topics))
}
