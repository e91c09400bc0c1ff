//! Captures of packets.
use super::{Answer, Shared, body};
use crate::observe;
use api::{ApiError, CaptureRequest, ErrorCode};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use flow::{Filters, capture::Capture, export::filters};
use futures::stream::unfold;
use std::{io, time::Duration};
use tokio::sync::{Semaphore, mpsc};

/// Captures that may run at a time.
const MOST: usize = 2;
static RUNNING: Semaphore = Semaphore::const_new(MOST);
/// Pieces of the file that wait for a reader: each may have whatever waited before, so a slow reader makes packets wait in the socket.
const PIECES: usize = 1;

/// `POST /v1/capture`: a pcapng file, until enough was seen or the client closes.
pub(super) async fn stream(State(agent): Shared, raw: Body) -> Answer<Response> {
    let request: CaptureRequest = body(raw).await?;
    if !agent.loaded.settings.enable_hubble_capture {
        return Err(ApiError::bad_request(
            "this agent captures no packets; accepted with enable-hubble-capture=true (hubble.capture.enabled of the chart)",
        )
        .into());
    }
    let capture = capture(&request)?;
    let Some((observer, feeder)) = agent.observer.get().zip(observe::feeder(&agent)) else {
        return Err(ApiError::bad_request(
            "this agent keeps no flows; captures take enable-hubble=true",
        )
        .into());
    };
    let Ok(permit) = RUNNING.try_acquire() else {
        let text = format!("{MOST} captures run already");
        return Err(ApiError::new(ErrorCode::Conflict, text).into());
    };
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let observer = observer.clone();
    // A thread of its own: it waits for packets, and for readers.
    let work = move || {
        let _permit = permit;
        let out = |piece: Vec<u8>| match piece.is_empty() {
            true => !sender.is_closed(),
            false => sender.blocking_send(Ok(piece.into())).is_ok(),
        };
        if let Err(error) = capture.run(&observer, feeder, out) {
            tracing::warn!("packets cannot be captured: {error}");
            // Nobody reads any more: nobody is told.
            let _ = sender.blocking_send(Err(error));
        }
    };
    let thread = std::thread::Builder::new().name("capture".to_owned());
    thread.spawn(work).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("no thread for a capture: {error}"),
        )
    })?;
    let pieces = unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-pcapng")];
    Ok((kind, Body::from_stream(pieces)).into_response())
}

fn capture(request: &CaptureRequest) -> Result<Capture, ApiError> {
    let list = |texts: &[String]| {
        let all = texts.iter().map(|text| filters(text));
        let all: Result<Vec<_>, _> = all.collect();
        all.map(|all| all.concat())
            .map_err(|error| ApiError::bad_request(error.to_string()))
    };
    let (allow, deny) = (list(&request.allow)?, list(&request.deny)?);
    let compiled = Filters::compile(&allow, &deny);
    Ok(Capture {
        filters: compiled.map_err(|error| ApiError::bad_request(error.to_string()))?,
        everything: allow.is_empty() && deny.is_empty(),
        snap: request
            .snap_length
            .map_or(usize::MAX, |bytes| bytes as usize),
        packets: request.packets,
        time: request.milliseconds.map(Duration::from_millis),
    })
}
