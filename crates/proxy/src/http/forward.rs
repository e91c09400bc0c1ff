//! One request: asked about, recorded, passed on or refused.
use super::{
    ACCESS_DENIED,
    body::{Answer, BoxError, Paced, Stalled, text},
    connection::Connection,
    framing::Refused,
    head,
    inlet::{Link, REFUSED},
    upstream::Failure,
};
use crate::{
    config::{Direction, Transport},
    policy::{Decision, HttpRequest, RuleName},
    record::{HEADERS_MAX, Http, Layer7, Record, Verdict, cut},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

const UNREACHABLE: &str = "The server cannot be reached\r\n";
const NO_ANSWER: &str = "The server did not answer\r\n";
const MALFORMED: &str = "Malformed request\r\n";

/// What is remembered of a request until its answer.
struct Asked {
    http: Http,
    rule: Option<RuleName>,
    direction: Direction,
    verdict: Verdict,
    began: Instant,
}

/// Behind a request that wishes to upgrade, the connection waits to hear what it is to be.
struct Upgrading<'a>(&'a Link, bool);

impl Drop for Upgrading<'_> {
    fn drop(&mut self) {
        self.0.decide(self.1);
    }
}

impl Connection {
    /// Answers a request. An error ends the connection, as the server's did.
    pub(super) async fn handle(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Answer>, BoxError> {
        let _busy = self.link.busy();
        let waits = request.version() == Version::HTTP_11
            && request.headers().contains_key(header::UPGRADE);
        let mut upgrading = waits.then(|| Upgrading(&self.link, false));
        if request.method().as_str() == REFUSED
            && let Some(why) = self.link.refused()
        {
            return Ok(self.refuse(why));
        }
        let wish = head::wish(&request);
        head::strip(request.headers_mut());
        let host = if request.method() == Method::CONNECT {
            Err(StatusCode::METHOD_NOT_ALLOWED)
        } else {
            head::host(&mut request)
        };
        let mut asked = describe(&request, host.as_ref().ok(), self.session.last());
        if self.upstream.way.is_secure() {
            asked.http.url.insert("http".len(), 's');
        }
        let host = match host {
            Ok(host) => host,
            Err(status) => {
                return Ok(self.answer_error(asked, status, MALFORMED));
            }
        };
        let decision = self.selection().http(&HttpRequest {
            method: request.method().as_str(),
            path: head::path(request.uri()),
            host: host.as_bytes(),
            headers: request.headers(),
        });
        let asked = Asked {
            verdict: decision.outcome.into(),
            rule: decision.rule.clone(),
            direction: decision.direction,
            ..asked
        };
        let asked = self.record_request(asked, &decision);
        if !decision.passes() {
            return Ok(self.deny(request, &asked));
        }
        for change in &decision.changes {
            change.apply(request.headers_mut());
        }
        let client = wish.map(|protocol| {
            let headers = request.headers_mut();
            headers.insert(header::UPGRADE, protocol);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            hyper::upgrade::on(&mut request)
        });
        let limit = self.shared.limits.body_idle;
        let request = request.map(|body| Paced::new(body, limit));
        let answer = match self
            .upstream
            .send(&self.shared, &self.session, request)
            .await
        {
            Ok(answer) => answer,
            Err(failure) => return self.failed(asked, failure),
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let switched = self.switch(asked, answer, client);
            if let (Ok(_), Some(upgrading)) = (&switched, &mut upgrading) {
                upgrading.1 = true;
            }
            return Ok(switched.unwrap_or_else(|answer| *answer));
        }
        self.record_answer(&asked, answer.status(), asked.verdict);
        Ok(self.pass_back(answer))
    }

    fn pass_back(&self, answer: Response<Incoming>) -> Response<Answer> {
        let limit = self.shared.limits.body_idle;
        let mut answer = answer.map(|body| Paced::new(body, limit).boxed_unsync());
        head::strip(answer.headers_mut());
        if self.shared.drain.is_asked() && answer.version() != Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        answer
    }

    /// The connection becomes something else, on both sides; or the answer that says why not.
    fn switch(
        &self,
        asked: Asked,
        mut answer: Response<Incoming>,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Answer>, Box<Response<Answer>>> {
        let protocol = answer.headers().get(header::UPGRADE).cloned();
        let (Some(client), Some(protocol)) = (client, protocol.filter(head::is_other_protocol))
        else {
            return Err(Box::new(self.answer_error(
                asked,
                StatusCode::BAD_GATEWAY,
                NO_ANSWER,
            )));
        };
        self.record_answer(&asked, answer.status(), asked.verdict);
        let server = hyper::upgrade::on(&mut answer);
        let drain = self.shared.drain.clone();
        tokio::spawn(async move {
            let Ok((client, server)) = futures::future::try_join(client, server).await else {
                return;
            };
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                () = drain.over() => {}
            }
        });
        let (mut parts, _) = answer.into_parts();
        head::strip(&mut parts.headers);
        parts.headers.insert(header::UPGRADE, protocol);
        let upgrade = HeaderValue::from_static("upgrade");
        parts.headers.insert(header::CONNECTION, upgrade);
        Ok(Response::from_parts(parts, text("")))
    }

    fn deny(&self, request: Request<Incoming>, asked: &Asked) -> Response<Answer> {
        self.record_answer(asked, StatusCode::FORBIDDEN, Verdict::Denied);
        let grpc = head::is_grpc(request.headers());
        let version = request.version();
        // A client that is still sending may not read an answer to a connection that is closed on it.
        if !request.headers().contains_key(header::EXPECT) {
            let limits = self.shared.limits;
            tokio::spawn(async move {
                let body = Paced::new(request.into_body(), limits.head_time);
                let read = swallow(body, limits.denied_body);
                let _ = tokio::time::timeout(limits.head_time, read).await;
            });
        }
        if grpc && version == Version::HTTP_2 {
            return denied_call();
        }
        self.plain(StatusCode::FORBIDDEN, ACCESS_DENIED)
    }

    /// What the connection's bytes are refused for.
    fn refuse(&self, why: Refused) -> Response<Answer> {
        tracing::debug!(source = %self.session.source, %why, "a malformed request");
        let asked = Asked {
            http: Http::default(),
            rule: None,
            direction: self.session.last(),
            verdict: Verdict::Error,
            began: Instant::now(),
        };
        self.answer_error(asked, why.status(), MALFORMED)
    }

    fn failed(&self, asked: Asked, failure: Failure) -> Result<Response<Answer>, BoxError> {
        tracing::debug!(source = %self.session.source, destination = %self.session.destination, %failure, "no answer");
        if let Some(why) = self.link.refused() {
            return Ok(self.answer_error(asked, why.status(), MALFORMED));
        }
        let (status, why) = match &failure {
            Failure::Broken { error, .. } if is_stalled(error) => {
                (StatusCode::REQUEST_TIMEOUT, MALFORMED)
            }
            // The client would have seen the end of its connection, and knows what to do then.
            Failure::Broken { reused: true, .. } => {
                self.record_answer(&asked, StatusCode::BAD_GATEWAY, Verdict::Error);
                return Err(failure.into());
            }
            Failure::Broken { .. } => (StatusCode::BAD_GATEWAY, NO_ANSWER),
            Failure::Connect(_) => (StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
            Failure::Late => (StatusCode::GATEWAY_TIMEOUT, NO_ANSWER),
        };
        Ok(self.answer_error(asked, status, why))
    }

    fn answer_error(
        &self,
        asked: Asked,
        status: StatusCode,
        why: &'static str,
    ) -> Response<Answer> {
        self.record_answer(&asked, status, Verdict::Error);
        self.plain(status, why)
    }

    fn plain(&self, status: StatusCode, body: &'static str) -> Response<Answer> {
        let mut answer = Response::new(text(body));
        *answer.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    fn record_request(&self, mut asked: Asked, decision: &Decision) -> Asked {
        let names = decision
            .changes
            .iter()
            .map(|change| change.header().to_string());
        asked.http.differing = names.collect();
        self.record(&asked, asked.verdict, None, || asked.http.clone());
        // The answer's record does not repeat them.
        asked.http.headers = Vec::new();
        asked
    }

    fn record_answer(&self, asked: &Asked, status: StatusCode, verdict: Verdict) {
        self.record(asked, verdict, Some(asked.began.elapsed()), || Http {
            code: status.as_u16(),
            ..asked.http.clone()
        });
    }

    fn record(
        &self,
        asked: &Asked,
        verdict: Verdict,
        latency: Option<Duration>,
        http: impl FnOnce() -> Http,
    ) {
        self.shared.recorder.record(|| Record {
            time: SystemTime::now(),
            session: self.session,
            direction: asked.direction,
            transport: Transport::Tcp,
            verdict,
            rule: asked.rule.clone(),
            latency,
            layer7: Layer7::Http(http()),
        });
    }
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

fn describe<B>(request: &Request<B>, host: Option<&HeaderValue>, direction: Direction) -> Asked {
    let host = host.map_or(&b"-"[..], HeaderValue::as_bytes);
    let url = format!(
        "http://{}{}",
        cut(host),
        cut(head::path(request.uri()).as_bytes())
    );
    let http = Http {
        code: 0,
        method: cut(request.method().as_str().as_bytes()),
        url,
        protocol: protocol(request.version()).into(),
        headers: headers(request.headers()),
        differing: Vec::new(),
        trace: head::trace(request.headers()),
    };
    Asked {
        http,
        rule: None,
        direction,
        verdict: Verdict::Error,
        began: Instant::now(),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), cut(value.as_bytes()))
    };
    headers.iter().take(HEADERS_MAX).map(text).collect()
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
