//! Flows as lines of JSON, for a reader that may be slow.
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::hubble::json;
use api::hubble::observer::GetFlowsResponse;
use futures::{FutureExt as _, Stream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use runtime::stop::Stop;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Body;

/// Pieces of an answer that wait for their reader.
const WAITING: usize = 16;

/// The size at which a piece is sent though more flows are there, in bytes.
const PIECE: usize = 32 << 10;

/// After which time without flows a reader gets an empty line: whoever is gone is noticed.
const PULSE: Duration = Duration::from_secs(10);

/// The answers as a body. A reader that leaves them for longer than `patience` is told so and gets no more; if it does not read
/// that either, its connection is `cut`. `place` is given back when all is over.
pub(super) fn body(
    answers: impl Stream<Item = Result<GetFlowsResponse, Status>> + Send + 'static,
    patience: Duration,
    stop: Stop,
    cut: Arc<Notify>,
    place: OwnedSemaphorePermit,
) -> Body {
    let (send, receive) = mpsc::channel(WAITING);
    // Lives as long as the body.
    let (life, gone) = oneshot::channel::<Infallible>();
    tokio::spawn(async move {
        let _place = place;
        // Room for the last words.
        let Ok(last) = send.clone().reserve_owned().await else {
            return;
        };
        let end = tokio::select! {
            end = pass(answers, send, patience) => end,
            () = stop.stopped() => Err("the relay ends".to_owned()),
        };
        match end {
            Ok(()) => drop(last),
            Err(text) => {
                let text = serde_json::json!({ "error": text }).to_string() + "\n";
                last.send(Bytes::from(text));
            }
        }
        if timeout(patience, gone).await.is_err() {
            cut.notify_one();
        }
    });
    let pieces = ReceiverStream::new(receive).map(move |piece| {
        let _ = &life;
        Ok::<_, Infallible>(Frame::data(piece))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Passes answers on until there are no more; what went wrong, if something did.
async fn pass(
    answers: impl Stream<Item = Result<GetFlowsResponse, Status>>,
    send: mpsc::Sender<Bytes>,
    patience: Duration,
) -> Result<(), String> {
    let mut answers = pin!(answers);
    loop {
        let mut piece = Vec::new();
        let mut next = timeout(PULSE, answers.next()).await.ok();
        let mut end = None;
        while let Some(answer) = next {
            end = add(&mut piece, answer);
            if end.is_some() || piece.len() >= PIECE {
                break;
            }
            // What is there already goes with it.
            next = answers.next().now_or_never();
        }
        if piece.is_empty() && end.is_none() {
            piece.push(b'\n');
        }
        if !piece.is_empty() {
            match timeout(patience, send.send(piece.into())).await {
                Ok(Ok(())) => {}
                // Nobody reads any more.
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    return Err(format!(
                        "flows came faster than they were read for {} s: ask again, for fewer",
                        patience.as_secs_f32()
                    ));
                }
            }
        }
        if let Some(end) = end {
            return end;
        }
    }
}

/// Adds an answer's line; how it all ended, if this is the end.
fn add(
    piece: &mut Vec<u8>,
    answer: Option<Result<GetFlowsResponse, Status>>,
) -> Option<Result<(), String>> {
    let before = piece.len();
    let written = match answer {
        None => return Some(Ok(())),
        Some(Ok(answer)) => json::write(piece, &answer).map_err(|error| error.to_string()),
        Some(Err(status)) => Err(status.message().to_owned()),
    };
    match written {
        Ok(()) => {
            piece.push(b'\n');
            None
        }
        Err(text) => {
            piece.truncate(before);
            Some(Err(text))
        }
    }
}
