//! A connection that was begun by somebody else: first what has been read of it, and its end once nobody has used it for long.
use crate::http::one::Clock;
use bytes::{Buf, BytesMut};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Requests without an answer yet.
#[derive(Debug, Default)]
pub(super) struct Activity(AtomicUsize);

impl Activity {
    /// A request is under way until this is dropped: a client that waits is not idle.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(&self.0)
    }
}

/// A request that is under way.
pub(super) struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection.
pub(super) struct Inlet<T> {
    inner: T,
    first: BytesMut,
    activity: Arc<Activity>,
    idle: Duration,
    clock: Clock,
    /// When the last byte passed, either way.
    active: Instant,
}

impl<T> Inlet<T> {
    pub(super) fn new(inner: T, first: BytesMut, activity: Arc<Activity>, idle: Duration) -> Self {
        Self {
            inner,
            first,
            activity,
            idle,
            clock: Clock::default(),
            active: Instant::now(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Inlet<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let length = this.first.len().min(buffer.remaining());
            buffer.put_slice(&this.first[..length]);
            this.first.advance(length);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buffer) {
            this.active = Instant::now();
            return Poll::Ready(read);
        }
        loop {
            ready!(this.clock.poll(cx, this.active + this.idle));
            if this.activity.0.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(Ok(()));
            }
            this.active = Instant::now();
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Inlet<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.active = Instant::now();
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, parts))?;
        self.active = Instant::now();
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn connections_that_nobody_uses_end() {
        const IDLE: Duration = Duration::from_secs(60);
        let (_client, server) = duplex(1024);
        let (begin, activity) = (Instant::now(), Arc::new(Activity::default()));
        let mut inlet = Inlet::new(server, BytesMut::from("PRI"), activity.clone(), IDLE);
        let busy = activity.busy();
        let mut all = Vec::new();
        let used = tokio::time::timeout(10 * IDLE, inlet.read_to_end(&mut all));
        assert!(
            used.await.is_err(),
            "it ended while a request was under way"
        );
        drop(busy);
        inlet.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"PRI");
        assert!(begin.elapsed() >= 10 * IDLE);
    }
}
