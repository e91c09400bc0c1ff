//! Query strings: names with any number of values.

/// A query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    pub(super) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        let pairs = pairs.map(|p| p.split_once('=').unwrap_or((p, "")));
        Query(pairs.map(|(k, v)| (decode(k), decode(v))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// It is there and says yes.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|v| matches!(v, "1" | "true" | "True" | "TRUE" | "t" | "T"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let query =
            Query::parse("command=sh&command=-c&command=echo+a%26b%zz%&tty=1&input=false&x");
        assert_eq!(
            query.all("command").collect::<Vec<_>>(),
            ["sh", "-c", "echo a&b%zz%"]
        );
        assert!(query.flag("tty") && !query.flag("input") && !query.flag("x") && !query.flag("y"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(decode("%c3%bc€%e"), "ü€%e");
    }
}
