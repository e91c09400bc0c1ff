//! Reading of requests: bounded, checked, with the place of a mistake.

use serde::de::DeserializeOwned;

use crate::{ApiError, ErrorCode};

/// The largest request body that is read.
pub const MAX_BODY: usize = 64 * 1024;

/// A request that knows what a sensible value is.
pub trait Validate {
    /// The first mistake, with the field in the detail.
    fn validate(&self) -> Result<(), ApiError>;
}

/// Reads and checks a request body. Pure: never touches anything but its argument.
pub fn parse<T: DeserializeOwned + Validate>(body: &[u8]) -> Result<T, ApiError> {
    parse_up_to(MAX_BODY, body)
}

/// As [`parse`], of a body that may have this many bytes.
pub fn parse_up_to<T: DeserializeOwned + Validate>(
    most: usize,
    body: &[u8],
) -> Result<T, ApiError> {
    if body.len() > most {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the body has {} bytes, {most} are read", body.len()),
        ));
    }
    let value: T = serde_json::from_slice(body).map_err(|e| {
        ApiError::bad_request(format!("the body is not what was expected: {e}")).detail(place(&e))
    })?;
    value.validate()?;
    Ok(value)
}

fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// A mistake in one field.
fn mistake(field: &str, what: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("{field}: {what}")).detail(format!("field {field}"))
}

/// Printable text of a bounded length.
pub(crate) fn text(field: &str, value: &str, max: usize) -> Result<(), ApiError> {
    if value.len() > max {
        return Err(mistake(
            field,
            format!("has {} bytes, at most {max} are taken", value.len()),
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(mistake(field, "has control characters"));
    }
    Ok(())
}

/// As [`text`], and not empty.
pub(crate) fn some_text(field: &str, value: &str, max: usize) -> Result<(), ApiError> {
    if value.is_empty() {
        return Err(mistake(field, "is empty"));
    }
    text(field, value, max)
}

/// A name that the kernel takes for an interface.
pub(crate) fn interface(field: &str, value: &str) -> Result<(), ApiError> {
    some_text(field, value, 15)?;
    let bad = value == "."
        || value == ".."
        || value
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace());
    if bad {
        Err(mistake(
            field,
            format!("`{value}` is not an interface name"),
        ))
    } else {
        Ok(())
    }
}

/// Six hexadecimal bytes joined by colons; empty for devices without a link-layer address.
pub(crate) fn mac(field: &str, value: &str) -> Result<(), ApiError> {
    let byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if value.is_empty() || (value.split(':').count() == 6 && value.split(':').all(byte)) {
        return Ok(());
    }
    Err(mistake(
        field,
        format!("`{}` is not a MAC address", value.escape_default()),
    ))
}

/// A number that must not be zero.
pub(crate) fn non_zero(field: &str, value: u32) -> Result<(), ApiError> {
    if value == 0 {
        Err(mistake(field, "must not be 0"))
    } else {
        Ok(())
    }
}

pub(crate) fn require(ok: bool, field: &str, what: &str) -> Result<(), ApiError> {
    if ok {
        Ok(())
    } else {
        Err(mistake(field, what))
    }
}
