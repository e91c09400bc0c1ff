//! What questions and answers say. Pure.
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use std::{collections::BTreeSet, net::IpAddr};

/// Longest answer over UDP for a client that does not say otherwise.
const UDP_PLAIN: usize = 512;
/// What our own answers say that we take over UDP.
const UDP_OURS: u16 = 1232;

/// Longest way of aliases that is followed backwards through an answer: resolvers give up earlier.
const ALIASES: usize = 16;

/// A question, as a client asks it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The client's number for it.
    pub id: u16,
    /// The name as rules know it.
    pub name: String,
    /// Type of the records asked for.
    pub kind: RecordType,
    /// Longest answer over UDP.
    pub limit: usize,
    query: Query,
    edns: bool,
    metadata: Metadata,
}

/// What came is no question that can be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not to be answered: an answer itself, or no message at all.
    Silence,
    /// To be answered with these bytes.
    Answer(Vec<u8>),
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Its code.
    pub rcode: u16,
    /// Addresses of the name, by way of its aliases; what is said about other names does not count.
    pub ips: Vec<IpAddr>,
    /// Its aliases.
    pub cnames: Vec<String>,
    /// Smallest time to live on the way; the largest number where there are no records.
    pub ttl: u32,
    /// Types of the answer's records.
    pub rrtypes: Vec<String>,
}

/// A name as rules know it: lower case, without the dot at its end. Bytes that no name of a host has are written as `\DDD`.
#[must_use]
pub fn text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for (index, label) in name.iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for byte in label {
            if byte.is_ascii_graphic() && *byte != b'.' && *byte != b'\\' {
                text.push(char::from(byte.to_ascii_lowercase()));
            } else {
                text.push_str(&format!("\\{byte:03}"));
            }
        }
    }
    text
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// It is none, or not one question about the names of the Internet.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        // An answer to an answer could go round in circles for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return Err(Malformed::Silence);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return Err(Malformed::Answer(bare(bytes, 1)));
        };
        if message.metadata.op_code != OpCode::Query {
            return Err(Malformed::Answer(bare(bytes, 4)));
        }
        let [query] = message.queries.as_slice() else {
            return Err(Malformed::Answer(bare(bytes, 1)));
        };
        if query.query_class() != DNSClass::IN {
            return Err(Malformed::Answer(bare(bytes, 5)));
        }
        let told = message
            .edns
            .as_ref()
            .map(|edns| usize::from(edns.max_payload()));
        Ok(Self {
            id: message.metadata.id,
            name: text(query.name()),
            kind: query.query_type(),
            limit: told.unwrap_or(UDP_PLAIN).max(UDP_PLAIN),
            query: query.clone(),
            edns: told.is_some(),
            metadata: message.metadata,
        })
    }

    /// An answer of our own, without records.
    #[must_use]
    pub fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        let mut answer = Message::response(self.id, OpCode::Query);
        answer.metadata = Metadata::response_from_request(&self.metadata);
        answer.metadata.response_code = code;
        answer.metadata.recursion_available = true;
        answer.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_OURS);
            answer.set_edns(edns);
        }
        answer.to_vec().unwrap_or_default()
    }

    /// Whether these bytes answer this question under this number: everything that a stranger would have to guess.
    #[must_use]
    pub fn answered_by(&self, bytes: &[u8], id: u16) -> Option<Message> {
        // The number first: it costs nothing.
        if bytes.get(..2)? != id.to_be_bytes() {
            return None;
        }
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Response
            || message.metadata.op_code != OpCode::Query
        {
            return None;
        }
        let same = match message.queries.as_slice() {
            [query] => {
                query.name().eq_case(self.query.name())
                    && query.query_type() == self.query.query_type()
                    && query.query_class() == self.query.query_class()
            }
            // Servers that understood nothing repeat nothing.
            [] => {
                message.metadata.response_code != ResponseCode::NoError
                    && message.answers.is_empty()
            }
            _ => false,
        };
        same.then_some(message)
    }

    /// What an answer says about the name.
    #[must_use]
    pub fn learn(&self, answer: &Message) -> Answered {
        let mut names = BTreeSet::from([self.name.clone()]);
        let mut learned = Answered {
            rcode: answer.metadata.response_code.into(),
            ttl: u32::MAX,
            ..Answered::default()
        };
        // Aliases may stand in any order; each round finds at least one, or is the last. Nobody has to follow thousands of them.
        for _ in 0..ALIASES {
            let before = names.len();
            for record in &answer.answers {
                if let RData::CNAME(target) = &record.data
                    && names.contains(&text(&record.name))
                    && names.insert(text(&target.0))
                {
                    learned.cnames.push(text(&target.0));
                    learned.ttl = learned.ttl.min(record.ttl);
                }
            }
            if names.len() == before {
                break;
            }
        }
        let mut kinds = BTreeSet::new();
        for record in &answer.answers {
            kinds.insert(record.record_type().to_string());
            let ip = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                _ => continue,
            };
            if names.contains(&text(&record.name)) && record.dns_class == DNSClass::IN {
                learned.ttl = learned.ttl.min(record.ttl);
                if !learned.ips.contains(&ip) {
                    learned.ips.push(ip);
                }
            }
        }
        learned.rrtypes = kinds.into_iter().collect();
        learned
    }

    /// The answer's bytes for the client: under its number, and over UDP no longer than it takes.
    #[must_use]
    pub fn release(&self, mut bytes: Vec<u8>, answer: &Message, limit: usize) -> Vec<u8> {
        if bytes.len() > limit {
            bytes = answer.truncate().to_vec().unwrap_or_default();
        }
        renumber(&mut bytes, self.id);
        bytes
    }
}

/// Gives a message another number.
pub fn renumber(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// A head alone, as an answer to what could not be read.
fn bare(request: &[u8], code: u8) -> Vec<u8> {
    let mut answer = vec![0; 12];
    answer[..2].copy_from_slice(&request[..2]);
    // An answer of the same kind, with its wish for recursion.
    answer[2] = 0x80 | (request[2] & 0x79);
    answer[3] = code;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{
        Record,
        rdata::{A, CNAME},
    };

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn asked(text: &str, kind: RecordType) -> (Message, Question) {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name(text), kind));
        let question = Question::read(&message.to_vec().unwrap()).unwrap();
        (message, question)
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    #[test]
    fn a_refusal_repeats_the_question() {
        let (message, question) = asked("WwW.Example.org.", RecordType::AAAA);
        assert_eq!(question.name, "www.example.org");
        let answer = Message::from_vec(&question.refuse(ResponseCode::Refused)).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert_eq!(answer.queries, message.queries);
        assert!(answer.edns.is_none());
    }

    #[test]
    fn what_is_no_question() {
        let (message, _) = asked("a.", RecordType::A);
        let bytes = message.to_vec().unwrap();
        assert_eq!(
            Question::read(&bytes[..11]).unwrap_err(),
            Malformed::Silence
        );
        let mut answer = bytes.clone();
        answer[2] |= 0x80;
        assert_eq!(Question::read(&answer).unwrap_err(), Malformed::Silence);
        let code = |bytes: &[u8]| match Question::read(bytes) {
            Err(Malformed::Answer(answer)) => answer[3],
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&bytes[..bytes.len() - 1]), 1);
        let mut notify = bytes.clone();
        notify[2] |= 4 << 3;
        assert_eq!(code(&notify), 4);
        let mut two = message.clone();
        two.add_query(Query::query(name("b."), RecordType::A));
        assert_eq!(code(&two.to_vec().unwrap()), 1);
        let mut chaos = bytes;
        let last = chaos.len() - 1;
        chaos[last] = 3;
        assert_eq!(code(&chaos), 5);
    }

    #[test]
    fn only_what_answers_the_question() {
        let (message, question) = asked("www.example.org.", RecordType::A);
        let mut right = message.clone();
        right.metadata.message_type = MessageType::Response;
        right.metadata.id = 7;
        let answers = |message: &Message, id| {
            question
                .answered_by(&message.to_vec().unwrap(), id)
                .is_some()
        };
        assert!(answers(&right, 7));
        assert!(!answers(&right, 8));
        let mut other = right.clone();
        other.queries = vec![Query::query(name("www.example.net."), RecordType::A)];
        assert!(!answers(&other, 7));
        other.queries = vec![Query::query(name("WWW.example.org."), RecordType::A)];
        assert!(!answers(&other, 7));
        other.queries = vec![Query::query(name("www.example.org."), RecordType::AAAA)];
        assert!(!answers(&other, 7));
        other.queries = Vec::new();
        assert!(!answers(&other, 7));
        other.metadata.response_code = ResponseCode::FormErr;
        assert!(answers(&other, 7));
        let mut question_back = right;
        question_back.metadata.message_type = MessageType::Query;
        assert!(!answers(&question_back, 7));
    }

    #[test]
    fn addresses_by_way_of_aliases_alone() {
        let (message, question) = asked("www.example.org.", RecordType::A);
        let mut answer = message;
        answer.metadata.message_type = MessageType::Response;
        answer.add_answers([
            a("c.example.net.", 60, 3),
            alias("b.example.net.", 30, "C.example.net."),
            alias("WWW.example.org.", 90, "b.example.net."),
            a("victim.example.com.", 5, 66),
            alias("victim.example.com.", 5, "x.example.com."),
        ]);
        let learned = question.learn(&answer);
        assert_eq!(learned.ips, ["192.0.2.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(learned.cnames, ["b.example.net", "c.example.net"]);
        assert_eq!((learned.ttl, learned.rcode), (30, 0));
        assert_eq!(learned.rrtypes, ["A", "CNAME"]);
        // A long way backwards is not followed to its end.
        answer.answers = (0..4000)
            .rev()
            .map(|n| alias(&format!("n{n}.org."), 1, &format!("n{}.org.", n + 1)))
            .chain([
                alias("www.example.org.", 1, "n0.org."),
                a("n4000.org.", 1, 4),
            ])
            .collect();
        let learned = question.learn(&answer);
        assert!(learned.ips.is_empty() && learned.cnames.len() == ALIASES);
        // Aliases that go round in circles end, too.
        answer.answers = vec![
            alias("www.example.org.", 1, "b."),
            alias("b.", 1, "www.example.org."),
        ];
        assert!(question.learn(&answer).ips.is_empty());
    }

    #[test]
    fn long_answers_are_cut_at_what_the_client_takes() {
        let (message, question) = asked("www.example.org.", RecordType::A);
        let mut answer = message;
        answer.metadata.message_type = MessageType::Response;
        answer.add_answers((0..100).map(|n| a("www.example.org.", 60, n)));
        let bytes = answer.to_vec().unwrap();
        assert!(bytes.len() > 512);
        let cut = question.release(bytes.clone(), &answer, question.limit);
        assert!(cut.len() <= 512);
        let cut = Message::from_vec(&cut).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(cut.metadata.id, question.id);
        assert_eq!(
            question.release(bytes.clone(), &answer, 65535)[2..],
            bytes[2..]
        );
    }
}
