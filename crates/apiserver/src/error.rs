//! Errors as the protocol shows them: `Status` objects with a code and a reason that clients branch on.

use serde_json::{Value, json};

use super::kind::Kind;

/// Why a request was refused, in the protocol's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 400: the request itself is malformed.
    BadRequest,
    /// 401: nobody knows who asks.
    Unauthorized,
    /// 408: the request did not come in time.
    RequestTimeout,
    /// 404: no such object, kind or path.
    NotFound,
    /// 409: an object of that name exists.
    AlreadyExists,
    /// 409: the object changed since it was read, or a precondition does not hold.
    Conflict,
    /// 422: the object is well formed but not valid.
    Invalid,
    /// 403: understood and refused.
    Forbidden,
    /// 405: the resource has no such verb.
    MethodNotAllowed,
    /// 406: no representation that the client accepts.
    NotAcceptable,
    /// 410: the revision asked for is no longer in the history.
    Expired,
    /// 413: the body is over the limit.
    RequestEntityTooLarge,
    /// 415: a body in an encoding that is not understood.
    UnsupportedMediaType,
    /// 504: the revision asked for lies in the future.
    Timeout,
    /// 429: not now.
    TooManyRequests,
    /// 500: a fault of the server.
    InternalError,
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::RequestTimeout => 408,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::Timeout => 504,
        }
    }
}

/// One reason more precise than the whole error, with the field it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable word, such as `FieldValueRequired`.
    pub reason: &'static str,
    /// The field's path, such as `spec.containers[0].name`; empty when no field is concerned.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// What the error is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Subject {
    group: String,
    /// The plural resource name, or for invalid objects the kind, as the protocol has it.
    kind: String,
    name: String,
    causes: Vec<Cause>,
}

/// A refused request. Becomes a `Status` object on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    reason: Reason,
    message: String,
    // Boxed: errors travel through every result of the store.
    subject: Box<Subject>,
}

impl ApiError {
    /// An error that concerns the request rather than one object.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            subject: Box::default(),
        }
    }

    /// The request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// No object of that name.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified_plural());
        Self::about(Reason::NotFound, message, kind, name)
    }

    /// The path leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(
            Reason::NotFound,
            "the server could not find the requested resource",
        )
    }

    /// An object of that name is there already.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified_plural());
        Self::about(Reason::AlreadyExists, message, kind, name)
    }

    /// The object changed in between, or a precondition does not hold.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            kind.qualified_plural()
        );
        Self::about(Reason::Conflict, message, kind, name)
    }

    /// The writer's copy is out of date.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Understood and refused.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified_plural());
        Self::about(Reason::Forbidden, message, kind, name)
    }

    /// The object does not hold what its kind demands.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let shown: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let list = match shown.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", kind.qualified_kind());
        let subject = Subject {
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            name: name.to_owned(),
            causes,
        };
        Self {
            reason: Reason::Invalid,
            message,
            subject: Box::new(subject),
        }
    }

    /// The revision is no longer in the history: list again.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            Reason::Expired,
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// The revision has not come yet.
    pub fn future_revision(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            field: String::new(),
            message: "Too large resource version".to_owned(),
        };
        Self::new(Reason::Timeout, message).with_cause(cause)
    }

    /// An error about one object, in words of its own.
    pub fn of(reason: Reason, message: String, kind: &Kind, name: &str) -> Self {
        Self::about(reason, message, kind, name)
    }

    fn about(reason: Reason, message: String, kind: &Kind, name: &str) -> Self {
        let subject = Subject {
            group: kind.group.clone(),
            kind: kind.plural.clone(),
            name: name.to_owned(),
            causes: Vec::new(),
        };
        Self {
            reason,
            message,
            subject: Box::new(subject),
        }
    }

    /// Adds a cause.
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.subject.causes.push(cause);
        self
    }

    /// Why, as a word that code may branch on.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The `Status` object of the protocol.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": format!("{:?}", self.reason),
            "code": self.code(),
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        status
    }

    fn details(&self) -> Option<Value> {
        let mut details = serde_json::Map::new();
        let subject = [
            ("name", &self.subject.name),
            ("group", &self.subject.group),
            ("kind", &self.subject.kind),
        ];
        for (key, value) in subject.into_iter().filter(|(_, value)| !value.is_empty()) {
            details.insert(key.to_owned(), json!(value));
        }
        if !self.subject.causes.is_empty() {
            let causes = self.subject.causes.iter().map(Cause::to_json).collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        (!details.is_empty()).then_some(Value::Object(details))
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut cause = json!({ "reason": self.reason, "message": self.message });
        if !self.field.is_empty() {
            cause["field"] = json!(self.field);
        }
        cause
    }
}

/// The `Status` of an operation that went through, naming what it was about.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({ "name": name, "kind": kind.plural, "uid": uid });
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}
