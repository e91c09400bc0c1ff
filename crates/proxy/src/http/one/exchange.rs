//! One request and its answer, under way at once: a server may answer before it has read all.
use super::{
    Relay, RequestHead,
    answer::{self, Head},
    framing::{self, Refused},
    pump::{Broken, Pump},
    side::Side,
};
use crate::http::{Limits, link::Stream};
use bytes::BytesMut;
use http::Version;
use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// How much of the next requests is read while a client waits, bytes.
const AHEAD: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The client is gone.
    #[error("the client is gone")]
    Client,
    /// The request's body is malformed.
    #[error("{0}")]
    Request(Refused),
    /// The request's body stopped.
    #[error("nothing of the body came for too long")]
    Stalled,
    /// The server has ended the connection.
    #[error("the server ended the connection")]
    Broken,
    /// The server's answer is malformed.
    #[error("the answer: {0}")]
    Answer(Refused),
    /// The server changes to a protocol that nobody asked for.
    #[error("the server switches protocols unasked")]
    Switched,
    /// The server does not answer.
    #[error("no answer in time")]
    Late,
}

impl<S: Stream> Relay<S> {
    /// Sends what is to be sent and waits for the head of the answer: as read, and as it came.
    pub(super) async fn answer(
        &mut self,
        head: &RequestHead,
        up: &mut Pump,
    ) -> Result<(Head, BytesMut), Failure> {
        let (limits, clock) = (&self.connection.shared.limits, &mut self.clock);
        let (client, Some(server)) = (&mut self.client, &mut self.server) else {
            return Err(Failure::Broken);
        };
        let late = Instant::now() + limits.answer;
        let mut seen = 0;
        poll_fn(|cx| {
            poll_up(cx, up, client, server, limits)?;
            if let Poll::Ready(answer) = poll_answer(cx, head, &mut seen, client, server, limits) {
                return Poll::Ready(answer);
            }
            if !client.output.is_empty() && matches!(client.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Err(Failure::Client));
            }
            if up.is_over() && is_gone(cx, client) {
                return Poll::Ready(Err(Failure::Client));
            }
            let (deadline, failure) = match up.deadline(limits) {
                Some(stalled) if stalled < late => (stalled, Failure::Stalled),
                _ => (late, Failure::Late),
            };
            clock.poll(cx, deadline).map(|()| Err(failure))
        })
        .await
    }

    /// Passes on the rest of both; an error ends the connection.
    pub(super) async fn deliver(
        &mut self,
        up: &mut Pump,
        down: &mut Pump,
        keeps: bool,
    ) -> Result<(), Failure> {
        let (limits, clock) = (&self.connection.shared.limits, &mut self.clock);
        let (client, Some(server)) = (&mut self.client, &mut self.server) else {
            return Err(Failure::Broken);
        };
        poll_fn(|cx| {
            poll_up(cx, up, client, server, limits)?;
            if !down.is_over()
                && let Poll::Ready(Err(_)) = down.poll(cx, server, client, limits)
            {
                return Poll::Ready(Err(Failure::Broken));
            }
            // What a server that ends the connection has not read of the request, it does not want.
            if down.is_over() && (up.is_over() || !keeps) {
                return Poll::Ready(Ok(()));
            }
            if up.is_over() && is_gone(cx, client) {
                return Poll::Ready(Err(Failure::Client));
            }
            let both = [up.deadline(limits), down.deadline(limits)];
            let Some(deadline) = both.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            clock.poll(cx, deadline).map(|()| Err(Failure::Stalled))
        })
        .await
    }
}

/// Sends more of a request. A server that takes no more of it may still answer.
fn poll_up<A: Stream, B: Stream>(
    cx: &mut Context<'_>,
    up: &mut Pump,
    client: &mut Side<A>,
    server: &mut Side<B>,
    limits: &Limits,
) -> Result<(), Failure> {
    if up.is_over() {
        return Ok(());
    }
    match up.poll(cx, client, server, limits) {
        Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
        Poll::Ready(Err(Broken::Malformed(why))) => Err(Failure::Request(why)),
        Poll::Ready(Err(Broken::Source)) => Err(Failure::Client),
        Poll::Ready(Err(Broken::Sink)) => {
            up.give_up();
            Ok(())
        }
    }
}

/// Reads until the head of the answer is there; what only says that it is under way goes on to the client.
fn poll_answer<A: Stream, B: Stream>(
    cx: &mut Context<'_>,
    head: &RequestHead,
    seen: &mut usize,
    client: &mut Side<A>,
    server: &mut Side<B>,
    limits: &Limits,
) -> Poll<Result<(Head, BytesMut), Failure>> {
    loop {
        if let Some(end) = framing::head_end(&server.input, *seen) {
            *seen = 0;
            let raw = server.take(end);
            let answer = answer::read(&raw, head.request.method()).map_err(Failure::Answer)?;
            if !answer.is_informational() {
                return Poll::Ready(Ok((answer, raw)));
            }
            if head.request.version() == Version::HTTP_11 {
                let version = (answer.version, true);
                answer::write(&raw, &answer, version, None, &mut client.output);
            }
            continue;
        }
        *seen = server.input.len();
        if *seen > limits.head || client.output.len() > limits.head {
            return Poll::Ready(Err(Failure::Answer(Refused::TooLarge)));
        }
        match ready!(server.poll_fill(cx)) {
            Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Broken)),
            Ok(_) => {}
        }
    }
}

/// Whether the client has gone away; what it asks meanwhile is kept.
fn is_gone<S: Stream>(cx: &mut Context<'_>, client: &mut Side<S>) -> bool {
    while client.input.len() < AHEAD {
        match client.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return true,
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => return false,
        }
    }
    false
}
