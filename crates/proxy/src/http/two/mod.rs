//! HTTP/2: a connection is opened into its requests, and those go on by one of our own.
mod body;
mod forward;
mod inlet;
mod upstream;

use super::{connection::Connection, link::Stream};
use bytes::BytesMut;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use inlet::{Activity, Inlet};
use std::{pin::pin, sync::Arc};
use upstream::Upstream;

/// What the requests of a connection share.
struct Two {
    connection: Connection,
    upstream: Upstream,
    activity: Arc<Activity>,
}

/// Serves a connection of which these bytes have been read.
pub(super) async fn serve(connection: Connection, stream: impl Stream + 'static, first: BytesMut) {
    let limits = connection.shared.limits;
    let drain = connection.shared.drain.clone();
    let two = Arc::new(Two {
        connection,
        upstream: Upstream::default(),
        activity: Arc::default(),
    });
    let gone = two.upstream.gone.clone();
    let inlet = Inlet::new(stream, first, two.activity.clone(), limits.idle);
    let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
    let mut serving = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(limits.window)
            .initial_connection_window_size(limits.window.saturating_mul(4))
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(head)
            .max_send_buf_size(usize::try_from(limits.window).unwrap_or(usize::MAX))
            .serve_connection(
                TokioIo::new(inlet),
                service_fn(move |request| two.clone().handle(request)),
            )
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
