//! A request of any version: held against the rules, and recorded with its answer.
use super::{connection::Connection, head};
use crate::{
    config::{Direction, Transport},
    policy::{Decision, HttpRequest, RuleName},
    record::{HEADERS_MAX, Http, Layer7, Record, Verdict, cut},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use std::time::{Instant, SystemTime};

/// Text of an answer instead of the server's.
pub(super) const UNREACHABLE: &str = "The server cannot be reached\r\n";
pub(super) const NO_ANSWER: &str = "The server did not answer\r\n";
pub(super) const MALFORMED: &str = "Malformed request\r\n";

/// What is remembered of a request until its answer.
pub(super) struct Asked {
    what: Option<What>,
    differing: Vec<String>,
    rule: Option<RuleName>,
    direction: Direction,
    verdict: Verdict,
    began: Instant,
}

/// What was asked, where it could be read.
struct What {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    trace: Option<String>,
}

/// What becomes of a request.
pub(super) enum Fate {
    /// It goes on.
    Passes,
    /// No rule allows it.
    Denied,
    /// It is answered with this.
    Malformed(StatusCode),
}

impl Connection {
    /// Takes out of a request what ends here and holds the rest against the rules; what passes is changed as they say.
    pub(super) fn ask<B>(&self, request: &mut Request<B>) -> (Asked, Fate) {
        head::strip(request.headers_mut());
        let host = if request.method() == Method::CONNECT {
            Err(StatusCode::METHOD_NOT_ALLOWED)
        } else {
            head::host(request)
        };
        let mut asked = self.nothing_asked();
        asked.what = Some(What {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: host.as_ref().ok().cloned(),
            version: request.version(),
            trace: head::trace(request.headers()),
        });
        let host = match host {
            Ok(host) => host,
            Err(status) => return (asked, Fate::Malformed(status)),
        };
        let decision = self.selection().http(&HttpRequest {
            method: request.method().as_str(),
            path: head::path(request.uri()),
            host: host.as_bytes(),
            headers: request.headers(),
        });
        asked.decided(&decision);
        self.record(&asked, asked.verdict, false, || Http {
            headers: headers(request.headers()),
            ..self.describe(&asked, 0)
        });
        if !decision.passes() {
            return (asked, Fate::Denied);
        }
        for change in &decision.changes {
            change.apply(request.headers_mut());
        }
        (asked, Fate::Passes)
    }

    /// What there is to say of a request that cannot be read.
    pub(super) fn nothing_asked(&self) -> Asked {
        Asked {
            what: None,
            differing: Vec::new(),
            rule: None,
            direction: self.session.last(),
            verdict: Verdict::Error,
            began: Instant::now(),
        }
    }

    /// Records the server's answer.
    pub(super) fn answered(&self, asked: &Asked, status: StatusCode) {
        self.record_answer(asked, status, asked.verdict);
    }

    /// Records an answer of our own: to what was denied, or could not be passed on.
    pub(super) fn answered_instead(&self, asked: &Asked, status: StatusCode) {
        let verdict = match asked.verdict {
            Verdict::Denied if status == StatusCode::FORBIDDEN => Verdict::Denied,
            _ => Verdict::Error,
        };
        self.record_answer(asked, status, verdict);
    }

    fn record_answer(&self, asked: &Asked, status: StatusCode, verdict: Verdict) {
        self.record(asked, verdict, true, || {
            self.describe(asked, status.as_u16())
        });
    }

    fn record(
        &self,
        asked: &Asked,
        verdict: Verdict,
        is_answer: bool,
        http: impl FnOnce() -> Http,
    ) {
        self.shared.recorder.record(|| Record {
            time: SystemTime::now(),
            session: self.session,
            direction: asked.direction,
            transport: Transport::Tcp,
            verdict,
            rule: asked.rule.clone(),
            latency: is_answer.then(|| asked.began.elapsed()),
            layer7: Layer7::Http(http()),
        });
    }

    /// A request as records have it, without its headers.
    fn describe(&self, asked: &Asked, code: u16) -> Http {
        let Some(what) = &asked.what else {
            return Http {
                code,
                ..Http::default()
            };
        };
        let scheme = if self.way.is_secure() {
            "https"
        } else {
            "http"
        };
        let host = what.host.as_ref().map_or(&b"-"[..], HeaderValue::as_bytes);
        let path = head::path(&what.uri).as_bytes();
        Http {
            code,
            method: cut(what.method.as_str().as_bytes()),
            url: format!("{scheme}://{}{}", cut(host), cut(path)),
            protocol: protocol(what.version).into(),
            headers: Vec::new(),
            differing: asked.differing.clone(),
            trace: what.trace.clone(),
        }
    }
}

impl Asked {
    fn decided(&mut self, decision: &Decision) {
        self.verdict = decision.outcome.into();
        self.rule.clone_from(&decision.rule);
        self.direction = decision.direction;
        let names = decision.changes.iter();
        self.differing = names.map(|change| change.header().to_string()).collect();
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
