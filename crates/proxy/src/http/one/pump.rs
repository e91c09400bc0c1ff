//! A body on its way from one side to the other, byte by byte as it came.
use super::{
    super::link::Stream,
    framing::{Left, Refused},
    side::Side,
};
use crate::http::Limits;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Why a body does not come to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is malformed.
    Malformed(Refused),
    /// Whoever sends it has ended the connection.
    Source,
    /// Whoever gets it takes no more.
    Sink,
}

/// A body, and how far it is.
pub(super) struct Pump {
    left: Left,
    /// Bytes at the start of the source's input that may pass.
    passed: usize,
    /// Since when nothing moves, if it has been asked.
    waits: Option<Instant>,
    /// The other side does not take what there is.
    stuck: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Moving,
    /// All of it is written.
    Whole,
    /// The rest is not wanted.
    GivenUp,
}

impl Pump {
    pub(super) fn new(left: Left) -> Self {
        Self {
            left,
            passed: 0,
            waits: None,
            stuck: false,
            state: State::Moving,
        }
    }

    /// True once there is nothing more to do.
    pub(super) fn is_over(&self) -> bool {
        self.state != State::Moving
    }

    /// True once all of it is written.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// The rest is not wanted.
    pub(super) fn give_up(&mut self) {
        self.state = State::GivenUp;
    }

    /// When to give up if nothing moves.
    pub(super) fn deadline(&mut self, limits: &Limits) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let patience = if self.stuck {
            limits.idle
        } else {
            limits.body_idle
        };
        Some(*self.waits.get_or_insert_with(Instant::now) + patience)
    }

    /// Moves what can be moved; ready when all is written.
    pub(super) fn poll<A: Stream, B: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<A>,
        to: &mut Side<B>,
        limits: &Limits,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.passed == 0 && !self.left.is_over() {
                let more = self.left.take(&from.input, limits.head);
                self.passed = more.map_err(Broken::Malformed)?;
            }
            if self.passed > 0 || !to.output.is_empty() {
                self.stuck = true;
                let bytes = &from.input[..self.passed];
                let Poll::Ready(sent) = to.poll_send(cx, bytes) else {
                    return Poll::Pending;
                };
                let sent = sent.map_err(|_| Broken::Sink)?;
                from.consume(sent);
                self.passed -= sent;
                self.waits = None;
            } else if self.left.is_over() {
                return self.poll_end(cx, to);
            } else {
                self.stuck = false;
                match from.poll_fill(cx) {
                    Poll::Ready(Ok(0)) if self.left == Left::Rest => {
                        self.left = Left::Length(0);
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken::Source)),
                    Poll::Ready(Ok(_)) => self.waits = None,
                    Poll::Pending => {
                        // What passed before may still be on its way through TLS.
                        return match to.poll_flush(cx) {
                            Poll::Ready(Err(_)) => Poll::Ready(Err(Broken::Sink)),
                            _ => Poll::Pending,
                        };
                    }
                }
            }
        }
    }

    fn poll_end<B: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Side<B>,
    ) -> Poll<Result<(), Broken>> {
        match to.poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.state = State::Whole;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Broken::Sink)),
            Poll::Pending => {
                self.stuck = true;
                Poll::Pending
            }
        }
    }

    /// Reads a body and forgets it, so that its sender reads the answer: true if that was all of it, false at the limit.
    pub(super) fn poll_swallow<A: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<A>,
        budget: &mut usize,
        limits: &Limits,
    ) -> Poll<bool> {
        loop {
            let Ok(taken) = self.left.take(&from.input, limits.head) else {
                return Poll::Ready(false);
            };
            from.consume(taken);
            if self.left.is_over() {
                return Poll::Ready(true);
            }
            if taken > *budget {
                return Poll::Ready(false);
            }
            *budget -= taken;
            if taken == 0 {
                match from.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }
}
