//! Servers that stand for images of demos: they answer what people expect of those.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use serde_json::json;
use tokio::net::TcpListener;

use super::http::{addresses, hostname};
use super::plain;

/// The longest answer of `/data`.
const MAX_DATA: u64 = 64 << 20;

/// Serves one function for all paths.
pub(super) async fn serve<F, R>(listener: TcpListener, answer: F)
where
    F: Fn(SocketAddr, Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response> + Send,
{
    let handler = move |ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer(plain(from), request).await) }
    };
    let app = Router::new().fallback(handler);
    let served = axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    );
    if let Err(e) = served.await {
        eprintln!("the HTTP server stopped: {e}");
    }
}

fn parameter(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = query.split('&').filter_map(|p| p.split_once('='));
    pairs
        .find(|(k, _)| *k == name)
        .map(|(_, v)| v.replace("%20", " ").replace('+', " "))
}

/// The name of a header as Go writes it: `x-a-b` is `X-A-B`.
fn canonical(name: &str) -> String {
    let word = |w: &str| {
        let mut chars = w.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// The request as Go's server of that image prints it.
fn printed(request: &Request) -> String {
    let headers = request.headers();
    let get = |name: header::HeaderName| {
        headers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    let mut text = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    text.push_str(&format!(
        "Host: {}\n",
        get(header::HOST).unwrap_or_default()
    ));
    if let Some(agent) = get(header::USER_AGENT) {
        text.push_str(&format!("User-Agent: {agent}\n"));
    }
    let rest = headers
        .iter()
        .filter(|(n, _)| **n != header::HOST && **n != header::USER_AGENT);
    let rest: BTreeMap<String, Vec<u8>> = rest
        .map(|(n, v)| (canonical(n.as_str()), v.as_bytes().to_vec()))
        .collect();
    for (name, value) in rest {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    text.push('\n');
    text
}

/// `traefik/whoami`.
pub(super) async fn whoami(name: Arc<str>, from: SocketAddr, request: Request) -> Response {
    match request.uri().path() {
        "/health" => StatusCode::OK.into_response(),
        "/bench" => "1".into_response(),
        "/data" => {
            let size: u64 = parameter(&request, "size")
                .and_then(|s| s.parse().ok())
                .unwrap_or(1);
            Body::from(vec![b'-'; size.min(MAX_DATA) as usize]).into_response()
        }
        "/api" => {
            let headers: BTreeMap<String, Vec<String>> = request
                .headers()
                .iter()
                .map(|(n, v)| {
                    (
                        canonical(n.as_str()),
                        vec![String::from_utf8_lossy(v.as_bytes()).into_owned()],
                    )
                })
                .collect();
            let host = request
                .headers()
                .get(header::HOST)
                .and_then(|h| h.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            Json(json!({"hostname": hostname(), "ip": addresses(), "headers": headers, "url": request.uri().to_string(),
                "host": host, "method": request.method().as_str(), "name": name.as_ref(), "remoteAddr": from.to_string()}))
            .into_response()
        }
        _ => {
            let mut text = String::new();
            if !name.is_empty() {
                text.push_str(&format!("Name: {name}\n"));
            }
            text.push_str(&format!("Hostname: {}\n", hostname()));
            for ip in addresses() {
                text.push_str(&format!("IP: {ip}\n"));
            }
            text.push_str(&format!("RemoteAddr: {from}\n"));
            text.push_str(&printed(&request));
            text.into_response()
        }
    }
}

/// Where the web server looks for files.
const ROOT: &str = "/usr/share/nginx/html";
const WELCOME: &str = "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n<p>This is the lab's \
    stand-in for the image: it serves the files of /usr/share/nginx/html, and this page when there are none.</p>\n</body>\n</html>\n";

fn file_of(path: &str) -> Option<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    let climbs = relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_)));
    let at = Path::new(ROOT).join(relative);
    (!climbs).then(|| {
        if at.is_dir() {
            at.join("index.html")
        } else {
            at
        }
    })
}

fn kind_of(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html" | "htm") => "text/html",
        Some("css") => "text/css",
        Some("js") => "application/javascript",
        Some("json") => "application/json",
        Some("txt") => "text/plain",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// `nginx`, as far as its default page goes. Writes an access log.
pub(super) async fn nginx(from: SocketAddr, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let found = file_of(&path).and_then(|f| Some((std::fs::read(&f).ok()?, kind_of(&f))));
    let mut answer = match found {
        Some((bytes, kind)) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        None if path == "/" || path == "/index.html" => Html(WELCOME).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            Html("<html>\n<head><title>404 Not Found</title></head>\n<body>\n<center><h1>404 Not Found</h1></center>\n<hr><center>nginx</center>\n</body>\n</html>\n"),
        )
            .into_response(),
    };
    answer
        .headers_mut()
        .insert(header::SERVER, header::HeaderValue::from_static("nginx"));
    let agent = request
        .headers()
        .get(header::USER_AGENT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("-");
    let at = jiff::Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000");
    println!(
        "{} - - [{at}] \"{} {path} {:?}\" {} - \"-\" \"{agent}\" \"-\"",
        from.ip(),
        request.method(),
        request.version(),
        answer.status().as_u16()
    );
    answer
}

/// The death star: ships land on it, and one thing must not be put where it can be put.
pub(super) async fn deathstar(_from: SocketAddr, request: Request) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/request-landing") => "Ship landed\n".into_response(),
        (&Method::PUT, "/v1/exhaust-port") => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Panic: deathstar exploded\n\ngoroutine 1 [running]:\nmain.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)\n",
        )
            .into_response(),
        (&Method::GET, "/" | "/v1" | "/v1/") => Json(json!({
            "name": "Death Star", "hostname": hostname(), "model": "DS-1 Orbital Battle Station",
            "manufacturer": "Imperial Department of Military Research, Sienar Fleet Systems",
            "length": "120000", "crew": "342953", "passengers": "843342", "hyperdrive_rating": "4.0", "starship_class": "Deep Space Mobile Battlestation",
            "api": ["GET   /v1", "GET   /v1/healthz", "POST  /v1/request-landing", "PUT   /v1/cargobay", "GET   /v1/hyper-matter-reactor/status", "PUT   /v1/exhaust-port"],
        }))
        .into_response(),
        (&Method::GET, "/v1/healthz" | "/v1/hyper-matter-reactor/status") => "ok\n".into_response(),
        (&Method::PUT, "/v1/cargobay") => "Cargo stored\n".into_response(),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

/// The mock of a JSON service.
pub(super) async fn json_mock(from: SocketAddr, request: Request) -> Response {
    let entry = |text: &str| Json(json!([{"id": 1, "body": text}])).into_response();
    match request.uri().path() {
        "/" => Html("<html><head><title>JSON Server</title></head><body>Congrats! You're successfully running JSON Server</body></html>\n").into_response(),
        "/public" => entry("public information"),
        "/private" => entry("private information"),
        "/client-ip" => {
            let ip = match from.ip() {
                IpAddr::V4(ip) => format!("::ffff:{ip}"),
                IpAddr::V6(ip) => ip.to_string(),
            };
            Json(json!({"client-ip": ip})).into_response()
        }
        "/auth-header-required" if !authorized(request.headers()) => {
            (StatusCode::UNAUTHORIZED, Json(json!({"error": "Unauthorized"}))).into_response()
        }
        "/auth-header-required" => entry("secret information"),
        "/echo" => printed(&request).into_response(),
        _ => (StatusCode::NOT_FOUND, Json(json!({}))).into_response(),
    }
}

fn authorized(headers: &HeaderMap) -> bool {
    headers.contains_key("x-very-secret-token") || headers.contains_key(header::AUTHORIZATION)
}

/// `agnhost netexec`.
pub(super) async fn netexec(from: SocketAddr, request: Request) -> Response {
    match request.uri().path() {
        "/clientip" => from.to_string().into_response(),
        "/hostname" | "/hostName" => hostname().into_response(),
        "/healthz" => StatusCode::OK.into_response(),
        "/header" => {
            let name = parameter(&request, "key").unwrap_or_default();
            let value = request
                .headers()
                .get(name.as_str())
                .map(|v| v.as_bytes().to_vec());
            Bytes::from(value.unwrap_or_default()).into_response()
        }
        "/echo" => {
            let code = parameter(&request, "code")
                .and_then(|c| c.parse().ok())
                .and_then(|c| StatusCode::from_u16(c).ok());
            (
                code.unwrap_or(StatusCode::OK),
                parameter(&request, "msg").unwrap_or_default(),
            )
                .into_response()
        }
        "/exit" | "/shutdown" => std::process::exit(
            parameter(&request, "code")
                .and_then(|c| c.parse().ok())
                .unwrap_or(0),
        ),
        "/" => format!("NOW: {}", jiff::Timestamp::now()).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `agnhost serve-hostname`.
pub(super) async fn serve_hostname(_from: SocketAddr, _request: Request) -> Response {
    hostname().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(answer: Response) -> String {
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20)
            .await
            .unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn request(method: &str, path: &str) -> Request {
        let builder = axum::http::Request::builder().method(method).uri(path);
        builder
            .header("host", "web")
            .header("x-real-ip", "1")
            .header("user-agent", "curl/8")
            .header("accept", "*/*")
            .body(Body::empty())
            .unwrap()
    }

    fn from() -> SocketAddr {
        "10.0.0.9:4000".parse().unwrap()
    }

    #[tokio::test]
    async fn whoami_prints_as_people_know_it() {
        let text = body(whoami("".into(), from(), request("GET", "/x?y=1")).await).await;
        let at = text.find("RemoteAddr").unwrap();
        assert!(
            text.starts_with("Hostname: ") && text[..at].contains("\nIP: 127.0.0.1\n"),
            "{text}"
        );
        assert_eq!(
            &text[at..],
            "RemoteAddr: 10.0.0.9:4000\nGET /x?y=1 HTTP/1.1\nHost: web\nUser-Agent: curl/8\nAccept: */*\nX-Real-Ip: 1\n\n"
        );
    }

    #[tokio::test]
    async fn star_wars_and_the_others() {
        assert_eq!(
            body(deathstar(from(), request("POST", "/v1/request-landing")).await).await,
            "Ship landed\n"
        );
        let exploded = deathstar(from(), request("PUT", "/v1/exhaust-port")).await;
        assert!(
            body(exploded)
                .await
                .starts_with("Panic: deathstar exploded\n")
        );
        assert_eq!(
            deathstar(from(), request("GET", "/v1/request-landing"))
                .await
                .status(),
            404
        );
        assert!(
            body(nginx(from(), request("GET", "/")).await)
                .await
                .contains("Welcome to nginx!")
        );
        assert_eq!(
            nginx(from(), request("GET", "/../../etc/passwd"))
                .await
                .status(),
            404
        );
        assert_eq!(
            json_mock(from(), request("GET", "/auth-header-required"))
                .await
                .status(),
            401
        );
        assert!(
            body(json_mock(from(), request("GET", "/client-ip")).await)
                .await
                .contains("::ffff:10.0.0.9")
        );
        assert_eq!(
            body(netexec(from(), request("GET", "/echo?msg=a+b")).await).await,
            "a b"
        );
        assert_eq!(
            body(netexec(from(), request("GET", "/clientip")).await).await,
            "10.0.0.9:4000"
        );
    }
}
