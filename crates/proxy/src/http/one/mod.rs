//! HTTP/1, relayed by one task that holds both connections. Heads are read as strictly as can be and written anew; bodies pass as
//! they come. Between requests nothing but the sockets is kept.
mod answer;
mod exchange;
mod framing;
mod pump;
mod request;
mod side;

pub use answer::{Head as AnswerHead, read as read_answer};
pub use framing::{Body, Chunked, Left, Refused, head_end};
pub use request::{Head as RequestHead, read as read_request};
pub(super) use side::{Clock, Side};

use super::{
    ACCESS_DENIED,
    asked::{Asked, Fate, MALFORMED, NO_ANSWER, UNREACHABLE},
    connection::Connection,
    head,
    link::{PROTOCOLS, Stream},
};
use bytes::{BufMut, Bytes, BytesMut};
use exchange::Failure;
use http::{Method, StatusCode, Version, header};
use pump::Pump;
use std::{future::poll_fn, io, pin::Pin, task::Poll};
use tokio::time::Instant;

/// Serves a connection.
pub(super) async fn serve(connection: Connection, client: Side<impl Stream>) {
    let drain = connection.shared.drain.clone();
    let mut relay = Relay {
        connection,
        client,
        server: None,
        clock: Clock::default(),
    };
    // While it drains, answers say that the connection ends: closing idle ones could cross a request on its way.
    tokio::select! {
        biased;
        () = relay.run() => {}
        () = drain.over() => {}
    }
}

struct Relay<S> {
    connection: Connection,
    client: Side<S>,
    server: Option<Side<Box<dyn Stream>>>,
    clock: Clock,
}

/// What comes after an answer.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    End,
}

impl<S: Stream> Relay<S> {
    async fn run(&mut self) {
        loop {
            let head = match self.head().await {
                Ok(None) => return,
                Ok(Some(head)) => request::read(&head),
                Err(why) => Err(why),
            };
            let next = match head {
                Ok(head) => self.exchange(head).await,
                Err(why) => self.refuse(why).await,
            };
            if next == Next::End {
                return;
            }
        }
    }

    /// The head of the next request, whole but unread; none if there is nothing more to wait for.
    async fn head(&mut self) -> Result<Option<Bytes>, Refused> {
        let Self {
            connection,
            client,
            server,
            clock,
        } = self;
        let limits = &connection.shared.limits;
        let (mut idle_since, mut begun, mut seen) = (None, None, 0);
        poll_fn(|cx| {
            loop {
                while client.input.starts_with(b"\r\n") {
                    client.consume(2);
                }
                if let Some(end) = framing::head_end(&client.input, seen) {
                    let head = client.take(end).freeze();
                    let fits = head.len() <= limits.head;
                    return Poll::Ready(fits.then_some(Some(head)).ok_or(Refused::TooLarge));
                }
                seen = client.input.len();
                if seen > limits.head {
                    return Poll::Ready(Err(Refused::TooLarge));
                }
                if seen > 0 && begun.is_none() {
                    begun = Some(Instant::now());
                }
                match client.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            // Where the server ends a connection that is kept, the client's ends, too, as it would without a proxy.
            let ended = |server: &mut Side<_>| server.is_of_no_use(cx);
            if begun.is_none() && server.as_mut().is_some_and(ended) {
                return Poll::Ready(Ok(None));
            }
            let (deadline, late) = match begun {
                Some(begun) => (begun + limits.head_time, Err(Refused::TooSlow)),
                None => {
                    let since = *idle_since.get_or_insert_with(Instant::now);
                    (since + limits.idle, Ok(None))
                }
            };
            clock.poll(cx, deadline).map(|()| late)
        })
        .await
    }

    async fn exchange(&mut self, mut head: RequestHead) -> Next {
        let wish = head::wish(&head.request);
        let (asked, fate) = self.connection.ask(&mut head.request);
        match fate {
            Fate::Passes => {}
            Fate::Denied => {
                let status = StatusCode::FORBIDDEN;
                return self.instead(&head, &asked, status, ACCESS_DENIED).await;
            }
            Fate::Malformed(status) => {
                return self.instead(&head, &asked, status, MALFORMED).await;
            }
        }
        let (server, reused) = match self.reach(&head).await {
            Ok(reached) => reached,
            Err(error) => {
                self.connection.tell(&error);
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return self.instead(&head, &asked, status, UNREACHABLE).await;
            }
        };
        request::write(&head, wish.as_ref(), &mut server.output);
        let mut up = Pump::new(head.body.into());
        let (answer, raw) = match self.answer(&head, &mut up).await {
            Ok(answer) => answer,
            Err(failure) => return self.failed(&asked, failure, reused).await,
        };
        let version = answer.version.min(head.request.version());
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = answer
                .becomes
                .as_ref()
                .filter(|to| head::is_other_protocol(to));
            let (Some(_), Some(protocol), true) = (wish, protocol, up.is_over()) else {
                return self.failed(&asked, Failure::Switched, reused).await;
            };
            self.connection.answered(&asked, answer.status);
            answer::write(
                &raw,
                &answer,
                (version, true),
                Some(protocol),
                &mut self.client.output,
            );
            let _ = self.tunnel().await;
            return Next::End;
        }
        self.connection.answered(&asked, answer.status);
        let keeps = head.keeps && answer.keeps && !self.connection.shared.drain.is_asked();
        answer::write(
            &raw,
            &answer,
            (version, keeps),
            None,
            &mut self.client.output,
        );
        drop(raw);
        let mut down = Pump::new(answer.body.into());
        if self.deliver(&mut up, &mut down, keeps).await.is_err() {
            return Next::End;
        }
        if keeps && up.is_whole() {
            return Next::Request;
        }
        self.end(!up.is_whole()).await
    }

    /// The connection to the server, and whether it was there already. One that has ended in between is made anew: nothing was sent.
    async fn reach(
        &mut self,
        head: &RequestHead,
    ) -> io::Result<(&mut Side<Box<dyn Stream>>, bool)> {
        if let Some(server) = &mut self.server
            && poll_fn(|cx| Poll::Ready(server.is_of_no_use(cx))).await
        {
            self.server = None;
        }
        let mut reused = true;
        if self.server.is_none() {
            let host = head.request.headers().get(header::HOST);
            let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
            // Boxed, since it is seldom there and large.
            let made = Box::pin(self.connection.connect(host, PROTOCOLS[1])).await?;
            self.server = Some(Side::new(made.0, BytesMut::new()));
            reused = made.1;
        }
        let server = self.server.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok((server, reused))
    }

    /// Answers what cannot be read as a request; nothing behind it can be, either.
    async fn refuse(&mut self, why: Refused) -> Next {
        self.connection.tell(&why);
        let asked = self.connection.nothing_asked();
        self.connection.answered_instead(&asked, why.status());
        self.say(why.status(), MALFORMED, Version::HTTP_11, false, true);
        self.end(true).await
    }

    /// Answers a request in the server's place, and reads its body so that the client reads the answer.
    async fn instead(
        &mut self,
        head: &RequestHead,
        asked: &Asked,
        status: StatusCode,
        why: &str,
    ) -> Next {
        self.connection.answered_instead(asked, status);
        let shared = &self.connection.shared;
        let limits = shared.limits;
        let request = &head.request;
        // A client that waits to be told to go on may send its body or not.
        let unsure = head.body.is_some() && request.headers().contains_key(header::EXPECT);
        let keeps = head.keeps && !unsure && !shared.drain.is_asked();
        let with_text = request.method() != Method::HEAD;
        self.say(status, why, request.version(), keeps, with_text);
        if !keeps {
            return self.end(true).await;
        }
        if poll_fn(|cx| self.client.poll_flush(cx)).await.is_err() {
            return Next::End;
        }
        let body = Pump::new(head.body.into());
        if self.swallow(body, limits.denied_body).await {
            Next::Request
        } else {
            Next::End
        }
    }

    /// What the client hears if the server's answer did not come.
    async fn failed(&mut self, asked: &Asked, failure: Failure, reused: bool) -> Next {
        self.connection.tell(&failure);
        let (status, why) = match failure {
            Failure::Client => return Next::End,
            Failure::Request(why) => (why.status(), MALFORMED),
            Failure::Stalled => (StatusCode::REQUEST_TIMEOUT, MALFORMED),
            Failure::Late => (StatusCode::GATEWAY_TIMEOUT, NO_ANSWER),
            Failure::Broken | Failure::Answer(_) | Failure::Switched => {
                (StatusCode::BAD_GATEWAY, NO_ANSWER)
            }
        };
        self.connection.answered_instead(asked, status);
        // The client would have seen the end of its connection, and knows what to do then.
        if reused && matches!(failure, Failure::Broken) {
            return Next::End;
        }
        self.say(status, why, Version::HTTP_11, false, true);
        self.end(true).await
    }

    /// An answer of our own.
    fn say(&mut self, status: StatusCode, why: &str, version: Version, keeps: bool, text: bool) {
        let out = &mut self.client.output;
        let reason = status.canonical_reason().unwrap_or_default();
        let length = why.len();
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n",
            status.as_u16()
        );
        out.put_slice(head.as_bytes());
        request::connection(version, keeps, None, out);
        out.put_slice(b"\r\n");
        if text {
            out.put_slice(why.as_bytes());
        }
    }

    /// Ends the connection behind an answer. Where the client may still be sending, that is read for a while: else it would hear
    /// of a reset before it has read the answer.
    async fn end(&mut self, sending: bool) -> Next {
        if poll_fn(|cx| self.client.poll_flush(cx)).await.is_err() {
            return Next::End;
        }
        let ended = poll_fn(|cx| Pin::new(&mut self.client.stream).poll_shutdown(cx)).await;
        if ended.is_ok() && (sending || !self.client.input.is_empty()) {
            let most = self.connection.shared.limits.denied_body;
            self.swallow(Pump::new(Left::Rest), most).await;
        }
        Next::End
    }

    /// Reads a body and forgets it: true if that was all of it, false at the limits.
    async fn swallow(&mut self, mut body: Pump, most: usize) -> bool {
        let limits = &self.connection.shared.limits;
        let (client, clock) = (&mut self.client, &mut self.clock);
        let (deadline, mut budget) = (Instant::now() + limits.head_time, most);
        poll_fn(
            |cx| match body.poll_swallow(cx, client, &mut budget, limits) {
                Poll::Pending => clock.poll(cx, deadline).map(|()| false),
                done => done,
            },
        )
        .await
    }

    /// Both connections are something else from here on.
    async fn tunnel(&mut self) -> io::Result<()> {
        let (client, Some(server)) = (&mut self.client, &mut self.server) else {
            return Ok(());
        };
        client
            .output
            .extend_from_slice(&server.take(server.input.len()));
        server
            .output
            .extend_from_slice(&client.take(client.input.len()));
        poll_fn(|cx| client.poll_flush(cx)).await?;
        poll_fn(|cx| server.poll_flush(cx)).await?;
        tokio::io::copy_bidirectional(&mut client.stream, &mut server.stream).await?;
        Ok(())
    }
}
