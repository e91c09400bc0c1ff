//! One connection of a client, from its first byte to its end.
use super::{
    Shared,
    inlet::{Bounds, Inlet, Link},
    link::{Stream, Way},
    upstream::Upstream,
};
use crate::{
    config::Transport,
    origin::Session,
    policy::{Policy, Selections, caught_up},
};
use bytes::BytesMut;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, ready},
};
use tokio::{io::ReadBuf, net::TcpStream};

/// What clients of HTTP/2 say first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What its requests share.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
    pub(super) link: Arc<Link>,
    pub(super) upstream: Upstream,
    /// The rules of the newest policy that was asked.
    selection: Mutex<Option<Arc<Selections>>>,
}

impl Connection {
    /// The rules of the newest policy.
    pub(super) fn selection(&self) -> Arc<Selections> {
        let policy: Arc<Policy> = self.shared.policy.borrow().clone();
        let mut kept = self
            .selection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(selection) if selection.version() == policy.version() => selection.clone(),
            _ => {
                let mut selection = policy.select_all(self.session.scopes(Transport::Tcp));
                if let Some(greeting) = &self.upstream.way.greeting {
                    selection = selection.greeted(greeting);
                }
                let selection = Arc::new(selection);
                *kept = Some(selection.clone());
                selection
            }
        }
    }
}

/// Serves a connection that was accepted.
pub(super) async fn accepted(shared: Arc<Shared>, stream: TcpStream) {
    let session = match shared.origin.accepted(&stream) {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(%error, "a connection that belongs to nobody");
            return;
        }
    };
    let _ = stream.set_nodelay(true);
    serve(shared, session, stream, Way::default()).await;
}

/// Serves a connection of which it is known whose it is.
pub(super) async fn serve(
    shared: Arc<Shared>,
    session: Session,
    mut stream: impl Stream + 'static,
    way: Way,
) {
    let drain = shared.drain.clone();
    let begin = async {
        let first = first_bytes(&shared, &mut stream).await;
        caught_up(
            &shared.policy,
            || session.scopes(Transport::Tcp),
            shared.limits.rules,
        )
        .await;
        first
    };
    let first = tokio::select! {
        first = begin => first,
        () = drain.over() => return,
    };
    let Ok(first) = first else {
        return;
    };
    let limits = shared.limits;
    let bounds = Bounds {
        head: limits.head,
        head_time: limits.head_time,
        idle: limits.idle,
    };
    let connection = Arc::new(Connection {
        shared,
        session,
        link: Arc::default(),
        upstream: Upstream::new(way),
        selection: Mutex::default(),
    });
    if first.starts_with(PREFACE) {
        serve_two(connection, Inlet::raw(stream, first, bounds)).await;
    } else {
        let link = connection.link.clone();
        serve_one(connection, Inlet::new(stream, first, bounds, link)).await;
    }
}

/// As much as tells the version.
async fn first_bytes(shared: &Shared, stream: &mut impl Stream) -> io::Result<BytesMut> {
    let mut first = BytesMut::new();
    let mut limit = shared.limits.idle;
    while PREFACE.starts_with(&first) && first.len() < PREFACE.len() {
        if tokio::time::timeout(limit, more(stream, &mut first)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        limit = shared.limits.head_time;
    }
    Ok(first)
}

/// Reads once, from a place that is not kept for as long as the connection lives; 0 is the end.
async fn more(stream: &mut impl Stream, to: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        to.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
    .await
}

async fn serve_one(connection: Arc<Connection>, inlet: Inlet<impl Stream + 'static>) {
    let drain = connection.shared.drain.clone();
    let gone = connection.upstream.gone.clone();
    let link = connection.link.clone();
    let head = connection.shared.limits.head;
    let service = service_fn(move |request| Box::pin(connection.clone().handle(request)));
    let mut serving = pin!(
        http1::Builder::new()
            .auto_date_header(false)
            .max_buf_size(head.max(8 << 10))
            .serve_connection(TokioIo::new(inlet), service)
            .with_upgrades()
    );
    // While it drains, answers say that the connection ends, see `forward`: closing idle ones could cross a request on its way.
    loop {
        tokio::select! {
            _ = &mut serving => return,
            // The server's connection ends as one of HTTP when it becomes something else, too.
            () = gone.notified() => if !link.is_upgrading() {
                serving.as_mut().graceful_shutdown();
            },
            () = drain.over() => return,
        }
    }
}

async fn serve_two(connection: Arc<Connection>, inlet: Inlet<impl Stream + 'static>) {
    let drain = connection.shared.drain.clone();
    let gone = connection.upstream.gone.clone();
    let limits = connection.shared.limits;
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let service = service_fn(move |request| connection.clone().handle(request));
    let mut serving = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(limits.window)
            .initial_connection_window_size(limits.window.saturating_mul(4))
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(head)
            .max_send_buf_size(usize::try_from(limits.window).unwrap_or(usize::MAX))
            .serve_connection(TokioIo::new(inlet), service)
    );
    let mut ending = false;
    loop {
        tokio::select! {
            _ = &mut serving => return,
            () = drain.asked(), if !ending => {
                ending = true;
                serving.as_mut().graceful_shutdown();
            }
            () = gone.notified() => serving.as_mut().graceful_shutdown(),
            () = drain.over() => return,
        }
    }
}
