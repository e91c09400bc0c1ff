//! Request bodies: size, encoding, JSON.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use serde_json::Value;

use super::super::error::{ApiError, Reason};
use super::MAX_BODY;

/// The media type of the body, in lower case and without parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

/// The whole body, if it is not too big.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    to_bytes(body, MAX_BODY).await.map_err(|error| {
        let too_big = std::error::Error::source(&error)
            .is_some_and(|e| e.to_string().contains("length limit"));
        if too_big {
            let why = format!("the request body is larger than the limit of {MAX_BODY} bytes");
            return ApiError::new(Reason::RequestEntityTooLarge, why);
        }
        ApiError::bad_request(format!(
            "the request body could not be read to its end: {error}"
        ))
    })
}

/// The body as a JSON value; an empty one is null.
pub async fn read_json(request: Request) -> Result<Value, ApiError> {
    let content_type = content_type(request.headers());
    let body = read(request.into_body()).await?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match content_type.as_str() {
        "" | "application/json" => serde_json::from_slice(&body)
            .map_err(|e| ApiError::bad_request(format!("the request body is not valid JSON: {e}"))),
        other => Err(ApiError::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format ({other}); this server understands application/json"
            ),
        )),
    }
}
