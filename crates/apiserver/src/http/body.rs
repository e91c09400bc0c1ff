//! Request bodies: size, encoding, JSON.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::super::error::{ApiError, Reason};
use super::super::parsed::{self, Parsed};
use super::super::store::WriteOptions;
use super::super::types::proto;
use super::MAX_BODY;

/// How long a body may take to come.
const READ_LIMIT: Duration = Duration::from_secs(60);

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
    let read = timeout(READ_LIMIT, to_bytes(body, MAX_BODY)).await;
    let read = read.map_err(|_| {
        let why = format!(
            "the request body did not come within {} s",
            READ_LIMIT.as_secs()
        );
        ApiError::new(Reason::RequestTimeout, why)
    })?;
    read.map_err(|error| {
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
    Ok(read_parsed(request).await?.value)
}

/// An object to be written; what is told of its text goes into the options.
pub async fn read_object(request: Request, options: &mut WriteOptions) -> Result<Value, ApiError> {
    let Parsed { value, repeated } = read_parsed(request).await?;
    options.repeated = repeated;
    Ok(value)
}

async fn read_parsed(request: Request) -> Result<Parsed, ApiError> {
    let content_type = content_type(request.headers());
    let body = read(request.into_body()).await?;
    if body.is_empty() {
        return Ok(Parsed::default());
    }
    parse(&content_type, &body)
}

/// Reads a body by its media type.
pub fn parse(content_type: &str, body: &[u8]) -> Result<Parsed, ApiError> {
    match content_type {
        "" | "application/json" => parsed::json(body)
            .map_err(|e| ApiError::bad_request(format!("the request body is not valid JSON: {e}"))),
        "application/yaml" | "application/apply-patch+yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => proto::decode(body)
            .map(Parsed::from)
            .map_err(|e| ApiError::new(Reason::UnsupportedMediaType, e.to_string())),
        other => Err(ApiError::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format ({other}); this server understands \
                 application/json, application/yaml and application/vnd.kubernetes.protobuf"
            ),
        )),
    }
}

/// YAML, of which JSON is a part.
fn yaml(body: &[u8]) -> Result<Parsed, ApiError> {
    if let Ok(parsed) = parsed::json(body) {
        return Ok(parsed);
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    serde_saphyr::from_str::<Value>(text)
        .map(Parsed::from)
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid YAML: {e}")))
}
