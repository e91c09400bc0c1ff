//! A question, and bytes that may answer it: passed over, refused in a form that can be read, or released as long as the client takes.

use hickory_proto::op::{Message, ResponseCode};
use hypha_proxy::dns::{Malformed, Question};

pub fn run(data: &[u8]) {
    // The first two bytes say how long the question is.
    let Some((length, rest)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (asked, answer) = rest.split_at(length);
    let question = match Question::read(asked) {
        Ok(question) => question,
        Err(Malformed::Silence) => return,
        Err(Malformed::Answer(answer)) => {
            assert_eq!((answer.len(), &answer[..2]), (12, &asked[..2]));
            assert!(answer[2] & 0x80 != 0);
            return;
        }
    };
    assert_eq!(question.name, question.name.to_ascii_lowercase());
    let refusal = question.refuse(ResponseCode::Refused);
    assert!(
        Question::read(&refusal).is_err(),
        "an answer is no question"
    );
    let read = Message::from_vec(&refusal).expect("a refusal can be read");
    assert_eq!(read.metadata.id, question.id);
    let Some(id) = answer.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
        return;
    };
    assert!(question.answered_by(answer, id.wrapping_add(1)).is_none());
    if let Some(message) = question.answered_by(answer, id) {
        let learned = question.learn(&message);
        assert!(
            learned.ips.len() <= message.answers.len()
                && learned.cnames.len() <= message.answers.len()
        );
        let short = question.release(answer.to_vec(), &message, answer.len().max(question.limit));
        assert_eq!(short[..2], question.id.to_be_bytes());
        assert_eq!(short[2..], answer[2..]);
    }
}
