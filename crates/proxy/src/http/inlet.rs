//! A connection of HTTP/1 as the parser may see it: only whole heads and chunks that [`framing`](super::framing) has found to be
//! beyond doubt. In place of the first one that is not comes a request that stands for the refusal, and then the end.
use super::framing::{self, Body, Chunked, Refused};
use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Method of the request that stands for a refusal.
pub(super) const REFUSED: &str = "REFUSED-BY-PROXY";
const STAND_IN: &[u8] = b"REFUSED-BY-PROXY / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n";
/// How much is read at once.
const READ: usize = 8 << 10;

/// Bounds of what a client may send, and of how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) head: usize,
    pub(super) head_time: Duration,
    pub(super) idle: Duration,
}

/// What the connection and whoever answers its requests tell each other.
#[derive(Debug, Default)]
pub(super) struct Link {
    refused: Mutex<Option<Refused>>,
    decision: AtomicU8,
    /// Requests without an answer yet.
    busy: AtomicUsize,
    waker: AtomicWaker,
}

const AS_BEFORE: u8 = 0;
const UNDECIDED: u8 = 1;
const TUNNEL: u8 = 2;

impl Link {
    /// Why the rest of the connection is refused.
    pub(super) fn refused(&self) -> Option<Refused> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a request that wishes to upgrade: whether the bytes behind it are something else than HTTP.
    pub(super) fn decide(&self, tunnel: bool) {
        let decision = if tunnel { TUNNEL } else { AS_BEFORE };
        self.decision.store(decision, Ordering::Release);
        self.waker.wake();
    }

    /// A request is under way until this is dropped: a client that waits is not idle.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.busy)
    }

    /// True from a request that wishes to upgrade on until that is decided, and for ever if it is granted.
    pub(super) fn is_upgrading(&self) -> bool {
        self.decision.load(Ordering::Acquire) != AS_BEFORE
    }

    fn refuse(&self, why: Refused) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

/// A request that is under way.
pub(super) struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

enum State {
    /// Before or in a head, of which so many bytes have been looked through.
    Head(usize),
    /// In a body of known length.
    Length(u64, bool),
    Chunks(Chunked, bool),
    /// Behind a request that wishes to upgrade.
    Undecided,
    /// Not HTTP/1, or no longer.
    Raw,
    /// So many bytes of the stand-in have been handed out.
    Refused(usize),
}

/// The connection.
pub(super) struct Inlet<T> {
    inner: T,
    link: Arc<Link>,
    bounds: Bounds,
    state: State,
    /// Read, and not handed out yet.
    raw: BytesMut,
    /// Start of it that may be handed out.
    checked: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the last byte passed, either way.
    active: Instant,
    /// When the first byte of the head came.
    head_since: Option<Instant>,
}

impl<T> Inlet<T> {
    /// `first`: what has been read of it already.
    pub(super) fn new(inner: T, first: BytesMut, bounds: Bounds, link: Arc<Link>) -> Self {
        Self {
            inner,
            link,
            bounds,
            state: State::Head(0),
            raw: first,
            checked: 0,
            sleep: None,
            active: Instant::now(),
            head_since: None,
        }
    }

    /// A connection that is not HTTP/1.
    pub(super) fn raw(inner: T, first: BytesMut, bounds: Bounds) -> Self {
        let mut inlet = Self::new(inner, first, bounds, Arc::default());
        inlet.state = State::Raw;
        inlet
    }

    fn refuse(&mut self, why: Refused) {
        self.link.refuse(why);
        self.raw = BytesMut::new();
        self.checked = 0;
        self.state = State::Refused(0);
    }

    /// Goes on checking what has been read; an error in a body ends it, one in a head ends the connection.
    fn check(&mut self) -> Result<(), Refused> {
        match &mut self.state {
            State::Head(seen) => {
                while let [b'\r', b'\n', ..] = self.raw[..] {
                    self.raw.advance(2);
                    *seen = 0;
                }
                let Some(end) = framing::head_end(&self.raw, *seen) else {
                    *seen = self.raw.len();
                    self.head_since.get_or_insert_with(Instant::now);
                    return if self.raw.len() > self.bounds.head {
                        Err(Refused::TooLarge)
                    } else {
                        Ok(())
                    };
                };
                if end > self.bounds.head {
                    return Err(Refused::TooLarge);
                }
                let found = framing::check_head(&self.raw[..end])?;
                self.checked = end;
                self.head_since = None;
                self.state = match found.body {
                    Body::Length(0) => after(found.upgrade),
                    Body::Length(length) => State::Length(length, found.upgrade),
                    Body::Chunked => State::Chunks(Chunked::Size, found.upgrade),
                };
                if found.upgrade {
                    self.link.decision.store(UNDECIDED, Ordering::Release);
                }
            }
            State::Length(left, upgrade) => {
                let here = usize::try_from(*left).map_or(self.raw.len(), |l| l.min(self.raw.len()));
                *left -= here as u64;
                self.checked = here;
                if *left == 0 {
                    self.state = after(*upgrade);
                }
            }
            State::Chunks(chunked, upgrade) => {
                loop {
                    let taken = chunked.take(&self.raw[self.checked..], self.bounds.head)?;
                    self.checked += taken;
                    if taken == 0 || *chunked == Chunked::Done {
                        break;
                    }
                }
                if *chunked == Chunked::Done {
                    self.state = after(*upgrade);
                }
            }
            State::Raw => self.checked = self.raw.len(),
            State::Undecided | State::Refused(_) => {}
        }
        Ok(())
    }

    /// Hands out what may be.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.checked.min(buffer.remaining());
        buffer.put_slice(&self.raw[..length]);
        self.raw.advance(length);
        self.checked -= length;
        if self.raw.is_empty() {
            // Idle connections hold no memory.
            self.raw = BytesMut::new();
        }
    }

    /// When to give up if nothing more comes, and why.
    fn deadline(&self) -> (Instant, Option<Refused>) {
        match self.head_since {
            Some(since) => (since + self.bounds.head_time, Some(Refused::TooSlow)),
            None => (self.active + self.bounds.idle, None),
        }
    }

    /// Ready when it is time to give up.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Refused>> {
        loop {
            let (deadline, why) = self.deadline();
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // A deadline that has moved away is looked at again when the old one is over: no timer is touched per request.
            if deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if why.is_none() && self.link.busy.load(Ordering::Relaxed) > 0 {
                self.active = Instant::now();
            } else if Instant::now() >= deadline {
                return Poll::Ready(why);
            }
            let (deadline, _) = self.deadline();
            if let Some(sleep) = &mut self.sleep {
                sleep.as_mut().reset(deadline);
            }
        }
    }
}

fn after(upgrade: bool) -> State {
    if upgrade {
        State::Undecided
    } else {
        State::Head(0)
    }
}

impl<T: AsyncRead + Unpin> Inlet<T> {
    /// Reads more to be checked; `Ok(0)` is the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        let got = buffer.filled();
        self.raw.extend_from_slice(got);
        if !got.is_empty() {
            self.active = Instant::now();
            if matches!(self.state, State::Head(_)) && self.head_since.is_none() {
                self.head_since = Some(self.active);
            }
        }
        Poll::Ready(Ok(got.len()))
    }

    /// Bytes that need no look, as many as there is room for, go straight to whoever reads.
    fn poll_straight(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let got = buffer.filled().len() - before;
        self.active = Instant::now();
        if let State::Length(left, upgrade) = &mut self.state {
            *left -= got as u64;
            if *left == 0 {
                self.state = after(*upgrade);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Inlet<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.checked > 0 {
                this.hand_out(buffer);
                return Poll::Ready(Ok(()));
            }
            match &mut this.state {
                // No end behind it: that would be taken for a client that is gone, before it has its answer.
                State::Refused(sent) if *sent == STAND_IN.len() => return Poll::Pending,
                State::Refused(sent) => {
                    let rest = &STAND_IN[*sent..];
                    let length = rest.len().min(buffer.remaining());
                    buffer.put_slice(&rest[..length]);
                    *sent += length;
                    return Poll::Ready(Ok(()));
                }
                State::Undecided => {
                    this.link.waker.register(cx.waker());
                    match this.link.decision.load(Ordering::Acquire) {
                        TUNNEL => this.state = State::Raw,
                        AS_BEFORE => this.state = State::Head(0),
                        _ => return Poll::Pending,
                    }
                    continue;
                }
                State::Raw if this.raw.is_empty() => return this.poll_straight(cx, buffer),
                State::Length(left, _)
                    if this.raw.is_empty() && *left >= buffer.remaining() as u64 =>
                {
                    return this.poll_straight(cx, buffer);
                }
                _ => {}
            }
            if !this.raw.is_empty() {
                let in_body = matches!(this.state, State::Chunks(..));
                match this.check() {
                    Ok(()) if this.checked > 0 => continue,
                    Ok(()) => {}
                    Err(why) if in_body => {
                        this.refuse(why);
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            why.to_string(),
                        )));
                    }
                    Err(why) => {
                        this.refuse(why);
                        continue;
                    }
                }
            }
            match this.poll_more(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match this.poll_deadline(cx) {
                    Poll::Ready(Some(why)) => this.refuse(why),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                },
            }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const BOUNDS: Bounds = Bounds {
        head: 256,
        head_time: Duration::from_secs(5),
        idle: Duration::from_secs(60),
    };

    /// What comes out when these bytes come in, so many at a time.
    async fn through(bytes: &[u8], step: usize) -> (Vec<u8>, Option<Refused>, bool) {
        let (mut client, server) = duplex(1 << 16);
        let link = Arc::new(Link::default());
        let mut inlet = Inlet::new(server, BytesMut::new(), BOUNDS, link.clone());
        let mut out = Vec::new();
        let write = async {
            for part in bytes.chunks(step) {
                // After a refusal nobody reads.
                let _ = client.write_all(part).await;
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let read = async {
            loop {
                // Behind a refusal nothing comes any more, not even the end.
                if out.ends_with(STAND_IN) {
                    return true;
                }
                match inlet.read_buf(&mut out).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        let ((), ok) = tokio::join!(write, read);
        (out, link.refused(), ok)
    }

    #[tokio::test]
    async fn what_is_beyond_doubt_passes_unchanged() {
        let good = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nPOST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
            POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\n\r\n";
        for step in [1, 2, 5, 17, 1000] {
            let (out, refused, ok) = through(good, step).await;
            assert_eq!(
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(good),
                "{step}"
            );
            assert_eq!((refused, ok), (None, true));
        }
    }

    #[tokio::test]
    async fn the_rest_of_the_connection_is_refused() {
        let first = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let bad = "GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nGET /secret HTTP/1.1\r\n\r\n";
        for step in [1, 7, 1000] {
            let (out, refused, _) = through(format!("{first}{bad}").as_bytes(), step).await;
            let out = String::from_utf8(out).unwrap();
            assert_eq!(
                out,
                format!("{first}{}", std::str::from_utf8(STAND_IN).unwrap())
            );
            assert_eq!(refused, Some(Refused::Both));
        }
        let long = format!(
            "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
            "a".repeat(300)
        );
        assert_eq!(through(long.as_bytes(), 9).await.1, Some(Refused::TooLarge));
        let chunk = "POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n";
        let (out, refused, ok) = through(chunk.as_bytes(), 100).await;
        let text = String::from_utf8_lossy(&out);
        assert!(text.ends_with("\r\n\r\n") && !ok, "{text}");
        assert_eq!(refused, Some(Refused::Chunk));
    }

    async fn refused<T: AsyncRead + Unpin>(inlet: &mut Inlet<T>, out: &mut Vec<u8>) {
        while !out.ends_with(STAND_IN) {
            inlet.read_buf(out).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_heads_and_idle_connections_end() {
        let (mut client, server) = duplex(1024);
        let link = Arc::new(Link::default());
        let mut inlet = Inlet::new(server, BytesMut::new(), BOUNDS, link.clone());
        let begin = Instant::now();
        let drip = async {
            for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.write_all(&[*byte]).await.unwrap();
            }
        };
        let mut out = Vec::new();
        tokio::select! {
            () = refused(&mut inlet, &mut out) => {}
            () = drip => panic!("nobody gave up"),
        }
        assert_eq!(link.refused(), Some(Refused::TooSlow));
        assert!(begin.elapsed() < Duration::from_secs(8));

        let (_client, server) = duplex(1024);
        let begin = Instant::now();
        let mut inlet = Inlet::new(server, BytesMut::new(), BOUNDS, Arc::default());
        assert_eq!(inlet.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        assert!(begin.elapsed() >= Duration::from_secs(60));
    }
}
