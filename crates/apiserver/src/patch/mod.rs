//! The patch formats of the protocol: plain values in, a plain value out.

mod json_patch;
pub(super) mod merge;
mod strategic;

use serde_json::Value;

use super::error::{ApiError, Reason};
use super::kind::Kind;
use super::parsed::{self, Parsed};

/// A patch whose body has been read.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Vec<json_patch::Operation>),
    /// RFC 7386.
    Merge(Value),
    /// Like merge, but lists of built-in kinds are merged by the keys of their elements.
    Strategic(Value),
}

impl Patch {
    /// Reads a patch by its content type; also returns the fields that the text has more than once.
    pub fn parse(
        kind: &Kind,
        content_type: &str,
        body: &[u8],
    ) -> Result<(Self, Vec<String>), ApiError> {
        let unsupported = |why: String| Err(ApiError::new(Reason::UnsupportedMediaType, why));
        let read = || {
            parsed::json(body)
                .map_err(|e| ApiError::bad_request(format!("the patch is not valid JSON: {e}")))
        };
        let object = || match read()? {
            parsed if parsed.value.is_object() => Ok(parsed),
            _ => Err(ApiError::bad_request("the patch is not a JSON object")),
        };
        match content_type {
            "application/json-patch+json" => {
                let Parsed { value, repeated } = read()?;
                Ok((Self::Json(json_patch::parse(&value)?), repeated))
            }
            "application/merge-patch+json" => {
                object().map(|patch| (Self::Merge(patch.value), patch.repeated))
            }
            "application/strategic-merge-patch+json" if kind.built_in => {
                object().map(|patch| (Self::Strategic(patch.value), patch.repeated))
            }
            "application/strategic-merge-patch+json" => unsupported(format!(
                "strategic merge patches work for built-in kinds only; send {} as application/merge-patch+json",
                kind.qualified_plural()
            )),
            other => unsupported(format!(
                "unknown patch type \"{other}\"; accepted: application/json-patch+json, \
                 application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
            )),
        }
    }

    /// The object after the patch.
    pub fn apply(self, kind: &Kind, mut object: Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(operations) => {
                json_patch::apply(&mut object, &operations).map_err(|why| {
                    ApiError::new(
                        Reason::Invalid,
                        format!(
                            "the server rejected our request due to an error in our request: {why}"
                        ),
                    )
                })?
            }
            Self::Merge(patch) => merge::apply(&mut object, patch),
            Self::Strategic(patch) => strategic::apply(&kind.schema(), &mut object, &patch)
                .map_err(ApiError::bad_request)?,
        }
        Ok(object)
    }
}
