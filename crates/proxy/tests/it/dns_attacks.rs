//! Answers that somebody forges or stuffs, and questions that are asked for others to be answered.
use crate::dns::{World, ask, client, name, pattern, question, reply, server};
use crate::world::soon;
use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        RData, Record as Rr, RecordType,
        rdata::{A, NS},
    },
};
use std::net::IpAddr;
use tokio::net::UdpSocket;

/// Somebody who has seen the question knows its number and port, but answers from elsewhere.
#[tokio::test]
async fn answers_from_others_than_the_server_are_not_heard() {
    let (right, wrong) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let world = World::new(right.local_addr().unwrap(), pattern("*")).await;
    let client = client(world.proxy).await;
    let asked = question("www.example.org.", RecordType::A);
    client.send(&asked.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, proxy) = soon(right.recv_from(&mut buffer)).await.unwrap();
    let seen = Message::from_vec(&buffer[..length]).unwrap();
    // More of them than guesses are forgiven.
    for _ in 0..50 {
        let forged = reply(&seen, 66).to_vec().unwrap();
        wrong.send_to(&forged, proxy).await.unwrap();
    }
    let answer = reply(&seen, 1).to_vec().unwrap();
    right.send_to(&answer, proxy).await.unwrap();
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    let heard = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(heard.answers.len(), 2);
    let learned = world.learn.seen.lock().unwrap();
    assert_eq!((learned.len(), learned[0].ips.len()), (1, 1));
}

/// A server that is asked for one name says something of others, too: in the answer, beside it, and behind it.
#[tokio::test]
async fn what_is_said_of_other_names_is_not_learned() {
    let server = server(|message| {
        let mut answer = reply(message, 1);
        let victim = || {
            Rr::from_rdata(
                name("victim.example.com."),
                3600,
                RData::A(A::new(6, 6, 6, 6)),
            )
        };
        answer.add_answer(victim());
        let ours = NS(name("victim.example.com."));
        answer.add_authority(Rr::from_rdata(name("example.com."), 3600, RData::NS(ours)));
        answer.add_additional(victim());
        let own = message.queries[0].name().clone();
        answer.add_additional(Rr::from_rdata(own, 3600, RData::A(A::new(6, 6, 6, 7))));
        vec![answer]
    })
    .await;
    let world = World::new(server, pattern("*")).await;
    for text in ["www.example.org.", "victim.example.com."] {
        ask(world.proxy, &question(text, RecordType::A)).await;
    }
    let learned = world.learn.seen.lock().unwrap();
    let own: IpAddr = [192, 0, 2, 0].into();
    assert_eq!(
        (learned[0].name.as_str(), &learned[0].ips),
        ("www.example.org", &vec![own])
    );
    // Of its own name it counts.
    assert_eq!(learned[1].ips.len(), 2);
}

/// What the proxy answers by itself is no longer than what was asked, but for what it says of itself (11 bytes), and a server's answer no
/// longer than the client takes.
#[tokio::test]
async fn short_questions_have_short_answers() {
    let server = server(|message| vec![reply(message, 100)]).await;
    let world = World::new(server, pattern("*.example.org")).await;
    let client = client(world.proxy).await;
    let mut buffer = vec![0; 65535];
    for text in ["www.example.com.", "www.example.org."] {
        for edns in [None, Some(600)] {
            let mut asked = question(text, RecordType::ANY);
            if let Some(limit) = edns {
                asked.set_edns(Edns::new());
                asked.edns.as_mut().unwrap().set_max_payload(limit);
            }
            let asked = asked.to_vec().unwrap();
            client.send(&asked).await.unwrap();
            let length = soon(client.recv(&mut buffer)).await.unwrap();
            let heard = Message::from_vec(&buffer[..length]).unwrap();
            if heard.metadata.response_code == ResponseCode::Refused {
                assert!(length <= asked.len() + 11, "{text} {length}");
            } else {
                assert!(
                    length <= usize::from(edns.unwrap_or(512)),
                    "{text} {length}"
                );
                assert!(heard.metadata.truncation && heard.answers.is_empty());
            }
        }
    }
}
