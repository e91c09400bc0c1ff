//! One request of HTTP/2: asked about, recorded, passed on or refused.
use super::{
    body::{Answer, BoxError, Paced, Stalled, text},
    upstream::Failure,
};
use crate::http::{
    ACCESS_DENIED,
    asked::{Asked, Fate, MALFORMED, NO_ANSWER, UNREACHABLE},
    connection::Connection,
    head,
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;

impl super::Two {
    /// Answers a request. An error ends the connection, as the server's did.
    pub(super) async fn handle(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Answer>, BoxError> {
        let _busy = self.activity.busy();
        let connection = &self.connection;
        let (asked, fate) = connection.ask(&mut request);
        match fate {
            Fate::Passes => {}
            Fate::Denied => return Ok(self.deny(request, &asked)),
            Fate::Malformed(status) => return Ok(instead(connection, &asked, status, MALFORMED)),
        }
        let limit = connection.shared.limits.body_idle;
        let request = request.map(|body| Paced::new(body, limit));
        match self.upstream.send(connection, request).await {
            Ok(answer) => {
                connection.answered(&asked, answer.status());
                let mut answer = answer.map(|body| Paced::new(body, limit).boxed_unsync());
                head::strip(answer.headers_mut());
                Ok(answer)
            }
            Err(failure) => self.failed(&asked, failure),
        }
    }

    fn deny(&self, request: Request<Incoming>, asked: &Asked) -> Response<Answer> {
        let grpc = head::is_grpc(request.headers());
        // A client that is still sending may not read an answer to a stream that is closed on it.
        if !request.headers().contains_key(header::EXPECT) {
            let limits = self.connection.shared.limits;
            tokio::spawn(async move {
                let body = Paced::new(request.into_body(), limits.head_time);
                let read = swallow(body, limits.denied_body);
                let _ = tokio::time::timeout(limits.head_time, read).await;
            });
        }
        let denied = instead(
            &self.connection,
            asked,
            StatusCode::FORBIDDEN,
            ACCESS_DENIED,
        );
        if grpc { denied_call() } else { denied }
    }

    fn failed(&self, asked: &Asked, failure: Failure) -> Result<Response<Answer>, BoxError> {
        let connection = &self.connection;
        connection.tell(&failure);
        let (status, why) = match &failure {
            Failure::Broken { error, .. } if is_stalled(error) => {
                (StatusCode::REQUEST_TIMEOUT, MALFORMED)
            }
            // The client would have seen the end of its connection, and knows what to do then.
            Failure::Broken { reused: true, .. } => {
                connection.answered_instead(asked, StatusCode::BAD_GATEWAY);
                return Err(failure.into());
            }
            Failure::Broken { .. } => (StatusCode::BAD_GATEWAY, NO_ANSWER),
            Failure::Connect(_) => (StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
            Failure::Late => (StatusCode::GATEWAY_TIMEOUT, NO_ANSWER),
        };
        Ok(instead(connection, asked, status, why))
    }
}

/// An answer that is not the server's.
fn instead(
    connection: &Connection,
    asked: &Asked,
    status: StatusCode,
    why: &'static str,
) -> Response<Answer> {
    connection.answered_instead(asked, status);
    let mut answer = Response::new(text(why));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// Whether the body's own clock ended it.
fn is_stalled(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<Stalled>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// The answer to a call of gRPC that no rule allows, which clients show as such.
fn denied_call() -> Response<Answer> {
    let mut answer = Response::new(text(""));
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    // PERMISSION_DENIED.
    headers.insert("grpc-status", HeaderValue::from_static("7"));
    headers.insert("grpc-message", HeaderValue::from_static("Access denied"));
    answer
}

/// Reads a body and forgets it, up to a limit.
async fn swallow(mut body: Paced, most: usize) {
    let mut left = most;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
        if length > left {
            return;
        }
        left -= length;
    }
}
