//! Commands in containers, and clients attached to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::wire::{Asked, Channel, Incoming, Wire};
use crate::kubelet::handle::{ContainerHandle, Input};
use crate::kubelet::logs::Stream;
use crate::kubelet::process::{self, Inside, Output, Terminal};

/// How long output may follow the end of a command: a process that it left behind may hold it open.
const DRAIN: Duration = Duration::from_millis(500);

/// The last word of a session: a Status object.
pub(super) fn status(result: &Result<i32, String>) -> String {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(e) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": format!("Internal error occurred: {e}"),
            "details": {"causes": [{"message": e}]},
        }),
    }
    .to_string()
}

/// Runs a command for a client.
pub(super) async fn exec(
    inside: Inside,
    lab: String,
    command: Vec<String>,
    asked: Asked,
    mut wire: Wire,
) {
    let started = process::exec(&inside, &lab, command, asked.stdin, asked.tty).await;
    let mut executed = match started {
        Ok(executed) => executed,
        Err(e) => return wire.finish(status(&Err(format!("{e:#}")))).await,
    };
    let mut outputs = JoinSet::new();
    let mut terminal = None;
    match executed.output.take() {
        Some(Output::Pipes(out, err)) => {
            outputs.spawn(copy(out, Channel::Stdout, wire.out.clone()));
            outputs.spawn(copy(err, Channel::Stderr, wire.out.clone()));
        }
        Some(Output::Terminal(t)) => {
            terminal = Some(t.clone());
            outputs.spawn(copy_terminal(t, wire.out.clone()));
        }
        None => {}
    }
    let stdin = executed.stdin.take();
    let input = async {
        let mut stdin = stdin;
        while let Some(incoming) = wire.incoming.recv().await {
            match (incoming, &terminal) {
                (Incoming::Stdin(bytes), Some(terminal)) => drop(terminal.write(&bytes).await),
                (Incoming::Stdin(bytes), None) => {
                    if let Some(pipe) = &mut stdin
                        && tokio::io::AsyncWriteExt::write_all(pipe, &bytes)
                            .await
                            .is_err()
                    {
                        stdin = None;
                    }
                }
                // Ctrl-D, as the terminal takes it.
                (Incoming::StdinEnd, Some(terminal)) => drop(terminal.write(&[4]).await),
                (Incoming::StdinEnd, None) => stdin = None,
                (Incoming::Resize(columns, rows), Some(terminal)) => terminal.resize(columns, rows),
                (Incoming::Resize(..), None) => {}
            }
        }
        std::future::pending::<()>().await;
    };
    let code = tokio::select! {
        code = executed.wait() => code,
        // The command is killed by being dropped.
        _ = &mut wire.gone => return,
        () = input => return,
    };
    let drained = async { while outputs.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    outputs.abort_all();
    wire.finish(status(&code.map_err(|e| e.to_string()))).await;
}

async fn copy(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    channel: Channel,
    to: mpsc::Sender<(Channel, Bytes)>,
) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to
            .send((channel, Bytes::copy_from_slice(&buffer[..n])))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn copy_terminal(from: Terminal, to: mpsc::Sender<(Channel, Bytes)>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to
            .send((Channel::Stdout, Bytes::copy_from_slice(&buffer[..n])))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Shows a client what a container writes from now on, and gives it what the client types. A container whose input is that of one
/// client is there for this one: it hears what was said before it came, too, however short the command was.
pub(super) async fn attach(container: Arc<ContainerHandle>, asked: Asked, mut wire: Wire) {
    let (past, mut output) = match container.stdin_once {
        true => container.log.whole(),
        false => (Vec::new(), container.log.live()),
    };
    for (stream, bytes) in past {
        if !show(&wire, asked, stream, bytes).await {
            return;
        }
    }
    let mut run = container.inside.subscribe();
    let input = container.input().filter(|_| asked.stdin);
    loop {
        tokio::select! {
            _ = &mut wire.gone => {
                close_once(&container, input.as_ref()).await;
                return;
            }
            () = async { drop(run.wait_for(Option::is_none).await) } => break,
            said = output.recv() => match said {
                Ok((stream, bytes)) => if !show(&wire, asked, stream, bytes).await { return },
                // Too slow: what was missed stands in the log.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
            Some(incoming) = wire.incoming.recv() => take(&container, input.as_ref(), incoming).await,
        }
    }
    while let Ok((stream, bytes)) = output.try_recv() {
        show(&wire, asked, stream, bytes).await;
    }
    wire.finish(status(&Ok(0))).await;
}

async fn show(wire: &Wire, asked: Asked, stream: Stream, bytes: Bytes) -> bool {
    let (channel, wanted) = match stream {
        Stream::Stdout => (Channel::Stdout, asked.stdout),
        Stream::Stderr => (Channel::Stderr, asked.stderr),
    };
    !wanted || wire.out.send((channel, bytes)).await.is_ok()
}

async fn take(container: &ContainerHandle, input: Option<&Input>, incoming: Incoming) {
    match (incoming, input) {
        (Incoming::Stdin(bytes), Some(input)) => drop(input.write(&bytes).await),
        (Incoming::Resize(columns, rows), Some(Input::Terminal(terminal))) => {
            terminal.resize(columns, rows)
        }
        (Incoming::StdinEnd, input) => close_once(container, input).await,
        _ => {}
    }
}

async fn close_once(container: &ContainerHandle, input: Option<&Input>) {
    if let Some(input) = input.filter(|_| container.stdin_once) {
        input.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words() {
        assert!(status(&Ok(0)).contains("\"Success\""));
        let failed: serde_json::Value = serde_json::from_str(&status(&Ok(3))).unwrap();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(
            failed["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        assert!(status(&Err("no".into())).contains("InternalError"));
    }
}
