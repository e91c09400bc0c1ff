//! What a setting accepts where its type alone accepts more: addresses, paths, names, numbers within bounds.

/// What is accepted, to end the sentence "expected …", and whether a text is that.
pub(super) struct Shape {
    pub(super) accepted: &'static str,
    pub(super) fits: fn(&str) -> bool,
}

/// A prefix length of IPv4.
pub(super) const MASK4: Shape = Shape {
    accepted: "a prefix length from 1 to 32",
    fits: |text| within(text, 1, 32),
};
/// A prefix length of IPv6.
pub(super) const MASK6: Shape = Shape {
    accepted: "a prefix length from 1 to 128",
    fits: |text| within(text, 1, 128),
};
/// Number of a cluster.
pub(super) const CLUSTER_ID: Shape = Shape {
    accepted: "a number from 0 to 255",
    fits: |text| within(text, 0, 255),
};
/// MTU of devices.
pub(super) const MTU: Shape = Shape {
    accepted: "0, or a number from 1280, the least that IPv6 works with, to 65535",
    fits: |text| text == "0" || within(text, 1280, 65_535),
};
/// At least one of something.
pub(super) const SOME: Shape = Shape {
    accepted: "a number from 1 to 4294967295",
    fits: |text| within(text, 1, u64::from(u32::MAX)),
};
/// Flows that are kept.
pub(super) const RING: Shape = Shape {
    accepted: "a power of two less one, from 1 to 65535, as 4095",
    fits: |text| {
        let number: Option<u32> = text.parse().ok();
        number.is_some_and(|n| (1..=65_535).contains(&n) && (n + 1).is_power_of_two())
    },
};
/// Kinds of events.
pub(super) const MONITOR_EVENTS: Shape = Shape {
    accepted: "drop, debug, capture, trace, policy-verdict, recorder, trace-sock, l7 or agent, with commas or blanks between them",
    fits: |text| {
        let kinds = [
            "drop",
            "debug",
            "capture",
            "trace",
            "policy-verdict",
            "recorder",
            "trace-sock",
            "l7",
            "agent",
        ];
        text.split([',', ' ', '\n'])
            .all(|part| part.is_empty() || kinds.contains(&part))
    },
};
/// Places of a table of consistent hashing.
pub(super) const MAGLEV: Shape = Shape {
    accepted: "251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071",
    fits: |text| {
        let sizes = [
            "251", "509", "1021", "2039", "4093", "8191", "16381", "32749", "65521", "131071",
        ];
        sizes.contains(&text)
    },
};
/// Twelve bytes.
pub(super) const SEED: Shape = Shape {
    accepted: "16 letters of base64, as `head -c12 /dev/urandom | base64` prints",
    fits: |text| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        text.len() == 16 && text.bytes().all(letter)
    },
};
/// Name of a cluster or pool.
pub(super) const NAME: Shape = Shape {
    accepted: "at most 32 lower case letters, digits and hyphens, the first and last no hyphen",
    fits: |text| text.len() <= 32 && is_label(text),
};
/// Name of an object; it may have dots.
pub(super) const OBJECT: Shape = Shape {
    accepted: "a name of lower case letters, digits, hyphens and dots, or nothing",
    fits: |text| text.is_empty() || is_domain(text),
};
/// Where a server listens.
pub(super) const LISTEN: Shape = Shape {
    accepted: "an address and a port as :9962, 127.0.0.1:9962 or [::1]:9962, or nothing",
    fits: |text| text.is_empty() || is_listen(text),
};
/// Value of a label of Kubernetes.
pub(super) const LABEL_VALUE: Shape = Shape {
    accepted: "the value of a label: at most 63 letters, digits, hyphens, underscores and dots, the first and last a letter or digit, or nothing",
    fits: |text| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let ends = [text.bytes().next(), text.bytes().last()];
        text.len() <= 63
            && text.bytes().all(inner)
            && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
    },
};
/// Where a server is.
pub(super) const URL: Shape = Shape {
    accepted: "a URL as https://192.0.2.1:6443, or nothing",
    fits: |text| {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        text.is_empty() || rest.is_some_and(|host| !host.is_empty() && !host.contains([' ', '@']))
    },
};
/// Where log records are taken.
pub(super) const COLLECTOR: Shape = Shape {
    accepted: "a URL as http://192.0.2.1:4318/v1/logs, or nothing",
    fits: |text| {
        let host = text.split_once("://").map(|(_, rest)| rest);
        let host = host.and_then(|rest| rest.split('/').next());
        let port = host.and_then(|host| host.rsplit_once(':'));
        (URL.fits)(text)
            && (text.is_empty() || port.is_some_and(|(_, port)| port.parse::<u16>().is_ok()))
    },
};
/// A file or directory.
pub(super) const PATH: Shape = Shape {
    accepted: "a path that begins with /",
    fits: |text| text.starts_with('/'),
};
/// A file or directory, or none.
pub(super) const PATH_OR_NOTHING: Shape = Shape {
    accepted: "a path that begins with /, or nothing",
    fits: |text| text.is_empty() || text.starts_with('/'),
};
/// Files, or none.
pub(super) const PATHS: Shape = Shape {
    accepted: "paths that begin with /, with commas or blanks between them, or nothing",
    fits: |text| {
        text.split([',', ' ', '\n'])
            .all(|path| path.is_empty() || path.starts_with('/'))
    },
};
/// What is counted of flows.
pub(super) const METRICS: Shape = Shape {
    accepted: "names as drop, or with options as dns:query;ignoreAAAA, with blanks between them",
    fits: |text| {
        text.split_whitespace().all(|item| {
            let name = item.split(':').next().unwrap_or_default();
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
    },
};
/// Filters of flows.
pub(super) const FILTERS: Shape = Shape {
    accepted: "objects of JSON with blanks between them, as {\"verdict\":[\"DROPPED\"]}, or nothing",
    fits: |text| {
        serde_json::Deserializer::from_str(text)
            .into_iter::<serde_json::Value>()
            .all(|filter| filter.is_ok_and(|filter| filter.is_object()))
    },
};
/// Fields of flows.
pub(super) const FIELDS: Shape = Shape {
    accepted: "names of fields as source.pod_name, with commas or blanks between them, or nothing",
    fits: |text| {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.');
        text.split([',', ' ', '\n'])
            .all(|field| !field.contains(odd))
    },
};
/// Names of headers.
pub(super) const HEADERS: Shape = Shape {
    accepted: "names of headers as traceparent, with commas or blanks between them, or nothing",
    fits: |text| {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        text.split([',', ' ', '\n']).all(|name| !name.contains(odd))
    },
};
/// A file to which something is exported.
pub(super) const EXPORT: Shape = Shape {
    accepted: "a path that begins with /, stdout, or nothing",
    fits: |text| text.is_empty() || text == "stdout" || text.starts_with('/'),
};
/// Devices of the machine.
pub(super) const DEVICES: Shape = Shape {
    accepted: "names of at most 15 letters as eth0, or beginnings as eth+, with commas or blanks between them",
    fits: |text| {
        let odd = |c: char| c == '/' || c == ':' || c.is_control();
        text.split([',', ' ', '\n'])
            .all(|name| name.len() <= 15 && !name.contains(odd) && name != "." && name != "..")
    },
};
/// Kind of pods' devices: not every kind that people know of works.
pub(super) const DEVICE_KIND: Shape = Shape {
    accepted: "veth or netkit-l2; netkit has no Ethernet header, which the programs read and write",
    fits: |text| !text.eq_ignore_ascii_case("netkit"),
};
/// Key of a label, annotation or taint.
pub(super) const LABEL_KEY: Shape = Shape {
    accepted: "a key as node.cilium.io/agent-not-ready",
    fits: is_key,
};
/// A choice of objects by their labels.
pub(super) const SELECTOR: Shape = Shape {
    accepted: "labels as k8s-app=cilium, tier!=edge or name in (a, b), with commas between them",
    fits: is_selector,
};
/// How to log.
pub(super) const LOG: Shape = Shape {
    accepted: "level=error|warn|info|debug|trace and format=text|json, with a comma between them",
    fits: |text| {
        super::Value::parse(text)
            .is_some_and(|options| crate::logging::Logging::from_options(false, &options).is_ok())
    },
};
/// Addresses to keep, by pool.
pub(super) const COUNTS: Shape = Shape {
    accepted: "numbers of addresses by pool as default=8, with commas between them",
    fits: |text| {
        text.split(',').all(|pair| {
            let count = pair.split_once('=').map(|(_, count)| count.trim());
            pair.trim().is_empty()
                || count.is_some_and(|count| within(count, 0, u64::from(u32::MAX)))
        })
    },
};

fn within(text: &str, least: u64, most: u64) -> bool {
    text.parse()
        .is_ok_and(|number: u64| (least..=most).contains(&number))
}

/// Letters, digits and hyphens, no hyphen at the ends.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Letters of both cases, digits, and `-_.` inside.
fn is_word(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_domain(domain) && is_word(name),
        None => is_word(text),
    }
}

fn is_listen(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let known = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.is_empty() || host.parse::<std::net::Ipv4Addr>().is_ok() || is_domain(host),
    };
    known && within(port, 0, 65_535)
}

fn is_selector(text: &str) -> bool {
    let mut depth = 0;
    let parts = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let is_value = |value: &str| value.trim().is_empty() || is_word(value.trim());
    let mut fits = true;
    for part in parts {
        let part = part.trim();
        fits &= match part
            .split_once(" in ")
            .or_else(|| part.split_once(" notin "))
        {
            Some((key, list)) => {
                let list = list.trim();
                let list = list.strip_prefix('(').and_then(|l| l.strip_suffix(')'));
                is_key(key.trim()) && list.is_some_and(|list| list.split(',').all(is_value))
            }
            None => match part.split_once('=') {
                Some((key, value)) => {
                    let key = key.trim_end_matches('!').trim();
                    is_key(key) && is_value(value.trim_start_matches('='))
                }
                None => is_key(part.trim_start_matches('!')),
            },
        };
    }
    fits || text.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: &Shape, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!((shape.fits)(text), "{text:?} is {}", shape.accepted);
        }
        for text in bad {
            assert!(!(shape.fits)(text), "{text:?} is not {}", shape.accepted);
        }
    }

    #[test]
    fn numbers_have_bounds() {
        check(
            &MASK4,
            &["1", "24", "32"],
            &["0", "33", "40", "-1", "x", ""],
        );
        check(&MASK6, &["64", "128"], &["0", "129"]);
        check(&MTU, &["0", "1280", "9000"], &["1", "1279", "70000"]);
        check(&COUNTS, &["", "a=1", "a=1, b=2"], &["a", "a=x", "a=-1"]);
    }

    #[test]
    fn tables_of_consistent_hashing() {
        check(&MAGLEV, &["251", "131071"], &["", "0", "250", "16384"]);
        check(
            &SEED,
            &["JLfvgnHc2kaSUFaI", "0123456789+/AbCd"],
            &["", "short", "JLfvgnHc2kaSUFa=", "JLfvgnHc2kaSUFaIJ"],
        );
    }

    #[test]
    fn names_and_places() {
        check(&NAME, &["default", "a-1"], &["", "-a", "A", "a.b", "a_b"]);
        check(
            &OBJECT,
            &["", "cilium-config", "a.b"],
            &["A b", ".", "a..b"],
        );
        check(
            &LISTEN,
            &["", ":9962", "127.0.0.1:1", "localhost:9234", "[::1]:80"],
            &["9962", ":x", ":70000", "::1:80", "a b:1", "[nine]:9"],
        );
        check(
            &URL,
            &["", "http://a", "https://[::1]:6443"],
            &["a:6443", "ftp://a", "https://", "https://me@a"],
        );
        check(
            &LABEL_VALUE,
            &["", "a", "A.b_c-1"],
            &["-a", "a.", "a b", "a/b"],
        );
        check(
            &COLLECTOR,
            &["", "http://a:4318", "https://[::1]:4318/v1/logs"],
            &["a:4318", "grpc://a:4317", "http://a", "http://a/v1/logs"],
        );
        check(&PATH, &["/a"], &["", "a", "./a"]);
        check(
            &RING,
            &["1", "4095", "65535"],
            &["0", "4096", "131071", "x"],
        );
        check(
            &MONITOR_EVENTS,
            &["", "drop", "trace, policy-verdict"],
            &["drops", "drop;trace"],
        );
        check(&PATHS, &["", "/a/b", "/a,/b /c"], &["a", "/a,b"]);
        check(
            &METRICS,
            &["", "drop", "dns:query;ignoreAAAA flows-to-world:port"],
            &[":a", "a/b", "drop,dns"],
        );
        check(
            &FILTERS,
            &["", "{}", r#"{"verdict":["DROPPED"]} {"reply":[true]}"#],
            &["{", "[]", "drop"],
        );
        check(&HEADERS, &["", "traceparent", "a, X-b"], &["a/b", "a:b"]);
        check(
            &FIELDS,
            &["", "time", "source.pod_name,verdict"],
            &["a/b", "a;b"],
        );
        check(
            &DEVICES,
            &["", "eth0", "eth+, ens1"],
            &["a/b", "a-name-that-is-too-long", ".."],
        );
    }

    #[test]
    fn labels() {
        check(&LABEL_KEY, &["a", "a.b/c_d"], &["", "a/", "/a", "a b"]);
        check(
            &SELECTOR,
            &[
                "",
                "k8s-app=cilium",
                "a,!b",
                "a!=b,c==d",
                "a in (b, c),d",
                "a notin (b)",
            ],
            &["=b", "a=b=c", "a in b", "a in (b", "a b"],
        );
        check(
            &LOG,
            &["", "level=debug,format=json"],
            &["level=loud", "colour=red"],
        );
    }
}
