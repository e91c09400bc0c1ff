//! Errors of the API server: what kind they are, and how they read in one line.
use kube::Error;

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// There is no such object, or no such kind.
#[must_use]
pub fn is_not_found(error: &Error) -> bool {
    code(error) == Some(404)
}

/// The object is there already, or is another by now.
#[must_use]
pub fn is_conflict(error: &Error) -> bool {
    code(error) == Some(409)
}

/// The API server did not take the request for what it says, however often it is asked.
#[must_use]
pub fn is_refusal(error: &Error) -> bool {
    matches!(code(error), Some(400 | 401 | 403 | 422))
}

/// One line: the message of the API server, or why it did not answer.
#[must_use]
pub fn says(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => causes(other),
    }
}

/// An error with what is behind it, each message once.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = cause.source();
    }
    text
}
