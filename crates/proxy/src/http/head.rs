//! Heads of requests and answers: whom they are for, and what of them is meant for the next hop alone.
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header, uri::Uri};

/// Headers that end at each hop.
const HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// Headers that a client cannot have taken away by naming them in `Connection`.
const STAYS: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION];

/// Takes away what ends here. Done before rules look at a request: what they see is what goes on.
pub(super) fn strip(headers: &mut HeaderMap) {
    // Most requests have none of them: to look at their few names once is cheaper than to look up each of these.
    if !headers
        .keys()
        .any(|name| HOP.contains(name) || name == header::TE)
    {
        return;
    }
    let named: Vec<HeaderName> = connection_tokens(headers)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !STAYS.contains(name))
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(header::TE)
        && te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What `Connection` names.
pub(super) fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONNECTION).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// The protocol that a request wishes to change to: not to HTTP/2, whose requests would pass unseen.
pub(super) fn wish<B>(request: &Request<B>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let headers = request.headers();
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let (only, more) = (lines.next()?, lines.next());
    let asked = connection_tokens(headers).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    (asked && more.is_none() && is_other_protocol(only)).then(|| only.clone())
}

/// One protocol, and no HTTP.
pub(super) fn is_other_protocol(value: &HeaderValue) -> bool {
    let value = value.as_bytes().to_ascii_lowercase();
    !value.contains(&b',') && !value.starts_with(b"h2") && !value.starts_with(b"http")
}

/// The host of a request, put where the next hop looks for it; the target becomes what that hop expects.
///
/// # Errors
/// There is none, or two that differ.
pub(super) fn host<B>(request: &mut Request<B>) -> Result<HeaderValue, StatusCode> {
    let named = request.headers().get(header::HOST).cloned();
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let authority = authority
        .map(HeaderValue::from_str)
        .transpose()
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    if request.version() == Version::HTTP_2 {
        let host = match (authority, named) {
            (Some(authority), Some(named)) if authority != named => {
                return Err(StatusCode::BAD_REQUEST);
            }
            (Some(host), _) => host,
            (None, Some(host)) => {
                *request.uri_mut() = with_authority(request.uri(), &host)?;
                host
            }
            (None, None) => return Err(StatusCode::BAD_REQUEST),
        };
        return Ok(host);
    }
    let Some(host) = authority else {
        return Ok(named.unwrap_or_else(|| HeaderValue::from_static("")));
    };
    // The target has a host of its own: it counts, and goes on as the header.
    request.headers_mut().insert(header::HOST, host.clone());
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(host)
}

fn with_authority(uri: &Uri, host: &HeaderValue) -> Result<Uri, StatusCode> {
    let mut parts = uri.clone().into_parts();
    parts.scheme.get_or_insert(http::uri::Scheme::HTTP);
    let authority = host.as_bytes().try_into();
    parts.authority = Some(authority.map_err(|_| StatusCode::BAD_REQUEST)?);
    Uri::from_parts(parts).map_err(|_| StatusCode::BAD_REQUEST)
}

/// Path with query, as sent.
pub(super) fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Whether it is a call of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Trace of the header `traceparent`: the second of its fields.
pub(super) fn trace(headers: &HeaderMap) -> Option<String> {
    const TRACE: HeaderName = HeaderName::from_static("traceparent");
    let value = headers.get(TRACE)?.to_str().ok()?;
    let mut fields = value.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let known = version.len() == 2 && version != "ff" && hex(version);
    let whole = trace.len() == 32 && hex(trace) && trace.bytes().any(|b| b != b'0');
    (known && whole).then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn hosts() {
        let mut absolute = request(Version::HTTP_11, "http://a:81/x?y", &[("host", "b")]);
        assert_eq!(host(&mut absolute).unwrap(), "a:81");
        assert_eq!(absolute.uri(), "/x?y");
        assert_eq!(absolute.headers()["host"], "a:81");
        let mut two = request(Version::HTTP_2, "http://a/x", &[("host", "b")]);
        assert_eq!(host(&mut two), Err(StatusCode::BAD_REQUEST));
        let mut late = request(Version::HTTP_2, "/x", &[("host", "b")]);
        assert_eq!(host(&mut late).unwrap(), "b");
        assert_eq!(late.uri(), "http://b/x");
        let mut user = request(Version::HTTP_11, "http://me@a/x", &[]);
        assert!(host(&mut user).is_err());
    }

    #[test]
    fn what_ends_here() {
        let mut request = request(
            Version::HTTP_11,
            "/",
            &[
                ("connection", "close, X-Role, host"),
                ("x-role", "admin"),
                ("host", "a"),
                ("te", "gzip"),
                ("keep-alive", "timeout=5"),
                ("x-stays", "1"),
            ],
        );
        strip(request.headers_mut());
        let left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-stays"]);
    }

    #[test]
    fn upgrades() {
        let wish_of = |value: &str, connection: &str| {
            let given = [("upgrade", value), ("connection", connection)];
            wish(&request(Version::HTTP_11, "/", &given)).is_some()
        };
        assert!(wish_of("websocket", "keep-alive, Upgrade"));
        assert!(!wish_of("websocket", "keep-alive"));
        assert!(!wish_of("h2c", "upgrade"));
        assert!(!wish_of("websocket, h2c", "upgrade"));
    }

    #[test]
    fn traces() {
        let of = |value: &str| {
            trace(request(Version::HTTP_11, "/", &[("traceparent", value)]).headers())
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            of(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        assert_eq!(of("00-0-1-1"), None);
        assert_eq!(of(&format!("00-{}-1-1", "0".repeat(32))), None);
    }
}
