//! One end of a relayed connection, and the clock that both ends share.
use super::super::link::Stream;
use bytes::{Buf, BytesMut};
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::ReadBuf,
    time::{Instant, Sleep},
};

/// How much is read at once.
const READ: usize = 16 << 10;
/// Up to how many bytes a head and what follows it are written from one place: cheaper than from two.
const TOGETHER: usize = 4 << 10;

/// A connection with what was read of it and what is to be written to it. An idle one holds no memory for either.
pub(crate) struct Side<S> {
    pub(crate) stream: S,
    /// Read, and not used yet.
    pub(crate) input: BytesMut,
    /// To be written before anything else.
    pub(super) output: BytesMut,
}

impl<S: Stream> Side<S> {
    pub(crate) fn new(stream: S, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: BytesMut::new(),
        }
    }

    /// Reads once; 0 is the end. Read into a place that is not kept for as long as the connection lives.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// True if a server cannot be asked anything here: it has ended the connection, or spoken unasked, which would be taken for
    /// its next answer.
    pub(super) fn is_of_no_use(&mut self, cx: &mut Context<'_>) -> bool {
        !self.input.is_empty() || self.poll_fill(cx).is_ready()
    }

    /// Takes bytes off the start of what was read.
    pub(super) fn consume(&mut self, count: usize) {
        drop_first(&mut self.input, count);
    }

    /// Takes that many bytes off, to keep them.
    pub(super) fn take(&mut self, count: usize) -> BytesMut {
        if count == self.input.len() {
            std::mem::take(&mut self.input)
        } else {
            self.input.split_to(count)
        }
    }

    /// Writes what is to be written and then these bytes; how many of these went.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Few bytes behind a head go with it.
        let few = !bytes.is_empty() && self.output.len() + bytes.len() <= TOGETHER;
        if few && !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !self.output.is_empty() {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            drop_first(&mut self.output, some(wrote)?);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &bytes[sent..]) {
                Poll::Ready(wrote) => sent += some(wrote?)?,
                Poll::Pending if sent > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(sent))
    }
    /// Writes all that is to be written, through whatever is below.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// Takes bytes off the start of a buffer; an empty one holds no memory.
fn drop_first(buffer: &mut BytesMut, count: usize) {
    if count == buffer.len() {
        *buffer = BytesMut::new();
    } else {
        buffer.advance(count);
    }
}

/// How much was written, which is never nothing.
fn some(wrote: usize) -> io::Result<usize> {
    if wrote == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(wrote)
}

/// One timer for all that a connection waits for: a deadline that moves away is looked at when the old one is over, so that no
/// timer is touched per request.
#[derive(Default)]
pub(crate) struct Clock(Option<Pin<Box<Sleep>>>);

impl Clock {
    /// Ready when it is time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
