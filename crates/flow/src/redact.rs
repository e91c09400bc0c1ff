//! What of requests nobody is to read: taken out before anybody can, ring, metrics and exports included.
use api::hubble::flow::{Flow, Http, HttpHeader, Kafka, layer7::Record};
use std::{borrow::Cow, collections::BTreeSet};

/// What stands in place of what was taken out.
pub const REDACTED: &str = "HUBBLE_REDACTED";

/// Which headers keep their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// None.
    #[default]
    None,
    /// These alone; names in small letters.
    Only(BTreeSet<String>),
    /// All but these; names in small letters.
    AllBut(BTreeSet<String>),
}

/// What is taken out of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// What follows the question mark of URLs.
    pub query: bool,
    /// Passwords in URLs.
    pub password: bool,
    /// Values of headers.
    pub headers: Headers,
    /// Kafka's API keys.
    pub api_key: bool,
}

impl Headers {
    /// The setting of two lists of names, at most one of which is given.
    ///
    /// # Errors
    /// Both are.
    pub fn of(allow: &[String], deny: &[String]) -> Result<Self, String> {
        let names = |list: &[String]| list.iter().map(|name| name.to_lowercase()).collect();
        match (allow, deny) {
            ([], []) => Ok(Self::None),
            (allow, []) => Ok(Self::Only(names(allow))),
            ([], deny) => Ok(Self::AllBut(names(deny))),
            _ => {
                Err("headers are both allowed and denied; accepted is one of the lists".to_owned())
            }
        }
    }

    fn keep(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        match self {
            Self::None => false,
            Self::Only(names) => names.contains(&name),
            Self::AllBut(names) => !names.contains(&name),
        }
    }
}

impl Redaction {
    /// Takes it out of a flow.
    pub fn apply(&self, flow: &mut Flow) {
        let Some(l7) = &mut flow.l7 else { return };
        match &mut l7.record {
            Some(Record::Http(http)) => self.http(http),
            Some(Record::Kafka(kafka)) => self.kafka(kafka),
            Some(Record::Dns(_)) | None => return,
        }
        // It says in words what the record says.
        flow.summary = crate::summary(flow);
    }

    fn http(&self, http: &mut Http) {
        if let Cow::Owned(url) = self.url(&http.url) {
            http.url = url;
        }
        for HttpHeader { key, value } in &mut http.headers {
            if !self.headers.keep(key) {
                REDACTED.clone_into(value);
            }
        }
    }

    fn kafka(&self, kafka: &mut Kafka) {
        if self.api_key && !kafka.api_key.is_empty() {
            REDACTED.clone_into(&mut kafka.api_key);
        }
    }

    /// A URL without what is to go, whatever it is made of: it comes from outside.
    fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let mut out = Cow::Borrowed(url);
        if self.query {
            // A fragment is no part of the query, whatever is in it.
            let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
            if let Some((path, _)) = before.split_once('?') {
                out = Cow::Owned(format!("{path}{fragment}"));
            }
        }
        if self.password
            && let Some(found) = password(&out)
        {
            let mut text = out.into_owned();
            text.replace_range(found, REDACTED);
            out = Cow::Owned(text);
        }
        out
    }
}

/// Where in a URL the password stands, as in `http://user:password@host/`.
fn password(url: &str) -> Option<std::ops::Range<usize>> {
    let start = url.find("//")? + 2;
    let authority = &url[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let user = &authority[..authority.rfind('@')?];
    let colon = user.find(':')?;
    Some(start + colon + 1..start + user.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::hubble::flow::{L7FlowType, Layer7};
    use proptest::prelude::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn request(url: &str) -> Flow {
        let header = |key: &str, value: &str| HttpHeader {
            key: key.into(),
            value: value.into(),
        };
        let http = Http {
            method: "GET".into(),
            protocol: "HTTP/1.1".into(),
            url: url.into(),
            headers: vec![header("Host", "shop"), header("Authorization", "secret")],
            ..Http::default()
        };
        Flow {
            l7: Some(Layer7 {
                r#type: L7FlowType::Request as i32,
                record: Some(Record::Http(http)),
                ..Layer7::default()
            }),
            summary: format!("HTTP/1.1 GET {url}"),
            ..Flow::default()
        }
    }

    fn redacted(redaction: &Redaction, url: &str) -> (String, Vec<String>, String) {
        let mut flow = request(url);
        redaction.apply(&mut flow);
        let Some(Record::Http(http)) = flow.l7.and_then(|l7| l7.record) else {
            panic!()
        };
        let values = http.headers.into_iter().map(|header| header.value);
        (http.url, values.collect(), flow.summary)
    }

    #[test]
    fn urls_lose_queries_and_passwords() {
        let all = Redaction {
            query: true,
            password: true,
            ..Redaction::default()
        };
        for (url, wanted) in [
            ("http://a/b?c=d", "http://a/b"),
            ("http://a/b?c=d#e", "http://a/b#e"),
            ("http://u:p@a/b", "http://u:HUBBLE_REDACTED@a/b"),
            ("http://u:p@q@a:80", "http://u:HUBBLE_REDACTED@a:80"),
            ("http://u@a/b", "http://u@a/b"),
            ("http://a/b:c@d", "http://a/b:c@d"),
            ("/b?c", "/b"),
            ("", ""),
        ] {
            let (url, _, summary) = redacted(&all, url);
            assert_eq!(
                (url.as_str(), summary.as_str()),
                (wanted, &*format!("HTTP/1.1 GET {wanted}"))
            );
        }
        let (url, ..) = redacted(&Redaction::default(), "http://u:p@a/b?c=d");
        assert_eq!(url, "http://u:p@a/b?c=d");
    }

    #[test]
    fn headers_keep_their_values_as_the_lists_say() {
        for (allow, deny, wanted) in [
            (&[][..], &[][..], [REDACTED, REDACTED]),
            (&["host"], &[], ["shop", REDACTED]),
            (&[], &["AUTHORIZATION"], ["shop", REDACTED]),
        ] {
            let redaction = Redaction {
                headers: Headers::of(&names(allow), &names(deny)).unwrap(),
                ..Redaction::default()
            };
            assert_eq!(redacted(&redaction, "/").1, wanted);
        }
        let both = Headers::of(&names(&["a"]), &names(&["b"])).unwrap_err();
        assert!(both.contains("accepted"), "{both}");
    }

    #[test]
    fn kafka_keys_go_and_other_flows_stay() {
        let redaction = Redaction {
            api_key: true,
            ..Redaction::default()
        };
        let kafka = Kafka {
            api_key: "produce".into(),
            topic: "t".into(),
            ..Kafka::default()
        };
        let mut flow = Flow {
            l7: Some(Layer7 {
                record: Some(Record::Kafka(kafka)),
                ..Layer7::default()
            }),
            ..Flow::default()
        };
        redaction.apply(&mut flow);
        let Some(Record::Kafka(kafka)) = flow.l7.and_then(|l7| l7.record) else {
            panic!()
        };
        assert_eq!(
            (kafka.api_key.as_str(), kafka.topic.as_str()),
            (REDACTED, "t")
        );
        let mut packet = Flow {
            summary: "UDP".into(),
            ..Flow::default()
        };
        redaction.apply(&mut packet);
        assert_eq!(packet.summary, "UDP");
    }

    proptest! {
        #[test]
        fn any_url_is_taken(url in ".*") {
            let all = Redaction { query: true, password: true, ..Redaction::default() };
            let once = all.url(&url).into_owned();
            prop_assert_eq!(all.url(&once).into_owned(), once);
        }
    }
}
