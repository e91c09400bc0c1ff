//! One connection of a client and the one to its server.
use super::{Hello, NoHello, Reader, Shared, inspect};
use crate::{
    config::Transport,
    http,
    origin::Session,
    policy::{Decision, Greeting, Selections, caught_up},
    record::{Layer7, Record, Tls, Verdict},
};
use socket2::{SockRef, TcpKeepalive};
use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::timeout,
};

/// A fatal alert, access_denied.
const DENIED: [u8; 7] = [21, 3, 1, 0, 2, 2, 49];
/// After so much silence it is asked whether the other end is still there.
const SILENCE: Duration = Duration::from_secs(300);

pub(super) async fn serve(shared: Arc<Shared>, http: http::Engine, client: TcpStream) {
    let session = match shared.origin.accepted(&client) {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(%error, "a connection that belongs to nobody");
            return;
        }
    };
    let drain = shared.drain.clone();
    let relay = Relay {
        shared,
        http,
        session,
    };
    tokio::select! {
        ended = relay.serve(client) => if let Err(error) = ended {
            tracing::debug!(source = %session.source, %error, "a connection of TLS ended");
        },
        () = drain.over() => {}
    }
}

struct Relay {
    shared: Arc<Shared>,
    http: http::Engine,
    session: Session,
}

impl Relay {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let scopes = || self.session.scopes(Transport::Tcp);
        caught_up(&self.shared.policy, scopes, self.shared.limits.rules).await;
        let selection = self.selection();
        if selection.is_unlimited() {
            // Whatever it speaks, and whoever begins.
            return self.pass(client, &[], None).await;
        }
        let mut first = Vec::new();
        let hello = timeout(
            self.shared.limits.hello,
            read_hello(&mut client, &mut first),
        )
        .await??;
        // It may have taken a while.
        let decision = self.decide(hello.as_ref());
        self.record(hello.as_ref(), &decision);
        if decision.passes() {
            let greeting = Greeting::from(hello.as_ref());
            if let Some(ends) = self.selection().ends(&greeting) {
                let inspect = inspect::Inspect {
                    limit: self.shared.limits.hello,
                    http: &self.http,
                    session: self.session,
                };
                return inspect.serve(client, first, greeting, ends).await;
            }
            return self.pass(client, &first, hello.as_ref()).await;
        }
        if hello.is_some() {
            client.write_all(&DENIED).await?;
        }
        client.shutdown().await
    }

    fn selection(&self) -> Selections {
        let policy = self.shared.policy.borrow().clone();
        policy.select_all(self.session.scopes(Transport::Tcp))
    }

    fn decide(&self, hello: Option<&Hello>) -> Decision {
        self.selection().greeting(&Greeting::from(hello))
    }

    /// Passes on what came and all that comes, until both sides have ended or the rules allow it no longer.
    async fn pass(
        &self,
        mut client: TcpStream,
        first: &[u8],
        hello: Option<&Hello>,
    ) -> io::Result<()> {
        let connect = self.shared.origin.connect(&self.session);
        let mut server = timeout(self.shared.limits.connect, connect).await??;
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let keepalive = TcpKeepalive::new().with_time(SILENCE);
            let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
        }
        let mut policy = self.shared.policy.clone();
        let size = self.shared.limits.buffer;
        let copy = async {
            server.write_all(first).await?;
            copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await
        };
        tokio::pin!(copy);
        loop {
            tokio::select! {
                ended = &mut copy => return ended.map(drop),
                changed = policy.changed() => {
                    if changed.is_err() {
                        return copy.await.map(drop);
                    }
                    if !self.decide(hello).passes() {
                        return Err(io::Error::other("no rule allows it any more"));
                    }
                }
            }
        }
    }

    fn record(&self, hello: Option<&Hello>, decision: &Decision) {
        self.shared.recorder.record(|| Record {
            time: SystemTime::now(),
            session: self.session,
            direction: decision.direction,
            transport: Transport::Tcp,
            verdict: Verdict::from(decision.outcome),
            rule: decision.rule.clone(),
            latency: None,
            layer7: Layer7::Tls(Tls {
                server_name: hello.and_then(|hello| hello.server_name.clone()),
            }),
        });
    }
}

/// Reads until the hello is whole; none where it is no TLS.
async fn read_hello(client: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<Option<Hello>> {
    let mut reader = Reader::default();
    let mut space = [0; 4096];
    loop {
        let got = client.read(&mut space).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&space[..got]);
        match reader.push(&space[..got]) {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(Some(hello)),
            Err(NoHello) => return Ok(None),
        }
    }
}
