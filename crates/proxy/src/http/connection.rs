//! One connection of a client, from its first byte to its end.
use super::{
    Shared,
    link::{Stream, Way},
    one::{self, Side},
    two,
};
use crate::{
    config::Transport,
    origin::Session,
    policy::{Policy, Selections, caught_up},
};
use bytes::BytesMut;
use std::{
    fmt,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpStream;

/// What clients of HTTP/2 say first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What its requests share.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
    /// How the server is reached.
    pub(super) way: Way,
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
                if let Some(greeting) = &self.way.greeting {
                    selection = selection.greeted(greeting);
                }
                let selection = Arc::new(selection);
                *kept = Some(selection.clone());
                selection
            }
        }
    }

    /// A connection to the server, and whether it was there already; `host`: see [`Way::connect`].
    pub(super) async fn connect(
        &self,
        host: &str,
        protocol: &[u8],
    ) -> io::Result<(Box<dyn Stream>, bool)> {
        let way = &self.way;
        way.connect(&self.shared, &self.session, host, protocol)
            .await
    }

    /// Says why there is no answer.
    pub(super) fn tell(&self, why: &dyn fmt::Display) {
        let Session {
            source,
            destination,
            ..
        } = &self.session;
        tracing::debug!(%source, %destination, %why, "no answer");
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
    stream: impl Stream + 'static,
    way: Way,
) {
    let drain = shared.drain.clone();
    let mut client = Side::new(stream, BytesMut::new());
    let begin = async {
        let begun = version(&shared, &mut client).await;
        caught_up(
            &shared.policy,
            || session.scopes(Transport::Tcp),
            shared.limits.rules,
        )
        .await;
        begun
    };
    let two = tokio::select! {
        begun = begin => match begun {
            Ok(two) => two,
            Err(_) => return,
        },
        () = drain.over() => return,
    };
    let connection = Connection {
        shared,
        session,
        way,
        selection: Mutex::default(),
    };
    if two {
        two::serve(connection, client.stream, client.input).await;
    } else {
        one::serve(connection, client).await;
    }
}

/// Reads as much as tells the version: true if it is HTTP/2.
async fn version(shared: &Shared, client: &mut Side<impl Stream>) -> io::Result<bool> {
    let mut limit = shared.limits.idle;
    while PREFACE.starts_with(&client.input) && client.input.len() < PREFACE.len() {
        let more = poll_fn(|cx| client.poll_fill(cx));
        if tokio::time::timeout(limit, more).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        limit = shared.limits.head_time;
    }
    Ok(client.input.starts_with(PREFACE))
}
