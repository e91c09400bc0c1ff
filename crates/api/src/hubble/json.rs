//! Messages as JSON: proto field names, enums by name, 64-bit integers as texts, times as RFC 3339.
use super::DESCRIPTORS;
use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use std::sync::LazyLock;

/// What does not work out, in words for whoever wrote the text.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The text is not such a message.
    #[error("not a {message}: {cause}")]
    Malformed {
        /// Full name of the message.
        message: String,
        /// What is wrong, and where.
        cause: serde_json::Error,
    },
    /// The message has no form in JSON: it carries something of a type that is not known here.
    #[error("a {message} cannot be written as JSON: {cause}")]
    Unwritable {
        /// Full name of the message.
        message: String,
        /// What is wrong.
        cause: String,
    },
}

/// What is done with fields that the message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are passed over: the writer may be of a later version.
    Ignore,
    /// They are mistakes.
    Refuse,
}

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

const WRITE: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

fn unwritable<M: Name>(cause: impl ToString) -> JsonError {
    JsonError::Unwritable {
        message: M::full_name(),
        cause: cause.to_string(),
    }
}

/// The fields that a message has.
///
/// # Errors
/// The message is not part of the flow API.
pub fn descriptor<M: Name>() -> Result<MessageDescriptor, JsonError> {
    let pool = POOL.as_ref();
    pool.and_then(|pool| pool.get_message_by_name(&M::full_name()))
        .ok_or_else(|| unwritable::<M>("it is not part of the flow API"))
}

/// The message on one line.
///
/// # Errors
/// It carries an extension that is not known here.
pub fn to_string<M: Message + Name>(message: &M) -> Result<String, JsonError> {
    let mut out = Vec::with_capacity(1024);
    write(&mut out, message)?;
    String::from_utf8(out).map_err(unwritable::<M>)
}

/// The message on one line, without the line's end, at the end of `out`.
///
/// # Errors
/// It carries an extension that is not known here; `out` may hold a part of it then.
pub fn write<M: Message + Name>(out: &mut Vec<u8>, message: &M) -> Result<(), JsonError> {
    let bytes = message.encode_to_vec();
    let dynamic =
        DynamicMessage::decode(descriptor::<M>()?, bytes.as_slice()).map_err(unwritable::<M>)?;
    let mut serializer = serde_json::Serializer::new(out);
    dynamic
        .serialize_with_options(&mut serializer, &WRITE)
        .map_err(unwritable::<M>)
}

/// The message that a text holds; both `snake_case` and `camelCase` names are read.
///
/// # Errors
/// The text is not such a message.
pub fn from_str<M: Message + Name + Default>(text: &str, unknown: Unknown) -> Result<M, JsonError> {
    let malformed = |cause| JsonError::Malformed {
        message: M::full_name(),
        cause,
    };
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == Unknown::Refuse);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic =
        DynamicMessage::deserialize_with_options(descriptor::<M>()?, &mut deserializer, &options)
            .map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    dynamic.transcode_to().map_err(unwritable::<M>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hubble::{flow, observer};

    fn response() -> observer::GetFlowsResponse {
        let flow = flow::Flow {
            time: Some(prost_types::Timestamp {
                seconds: 1_741_079_521,
                nanos: 402_000_000,
            }),
            verdict: flow::Verdict::Dropped as i32,
            drop_reason_desc: flow::DropReason::PolicyDenied as i32,
            ip: Some(flow::Ip {
                source: "10.0.0.1".into(),
                destination: "10.0.0.2".into(),
                ip_version: flow::IpVersion::IPv4 as i32,
                ..Default::default()
            }),
            l4: Some(flow::Layer4 {
                protocol: Some(flow::layer4::Protocol::Tcp(flow::Tcp {
                    source_port: 40112,
                    destination_port: 80,
                    flags: Some(flow::TcpFlags {
                        syn: true,
                        ..Default::default()
                    }),
                })),
            }),
            source: Some(flow::Endpoint {
                id: 7,
                identity: 20311,
                ..Default::default()
            }),
            r#type: flow::FlowType::L3L4 as i32,
            is_reply: Some(false),
            socket_cookie: 1 << 60,
            summary: "TCP Flags: SYN".into(),
            ..Default::default()
        };
        observer::GetFlowsResponse {
            node_name: "default/w1".into(),
            time: flow.time,
            response_types: Some(observer::get_flows_response::ResponseTypes::Flow(flow)),
        }
    }

    #[test]
    fn names_are_those_of_the_messages_and_enums_are_words() {
        let text = to_string(&response()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "flow": {
                    "time": "2025-03-04T09:12:01.402Z",
                    "verdict": "DROPPED",
                    "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
                    "l4": {"TCP": {"source_port": 40112, "destination_port": 80, "flags": {"SYN": true}}},
                    "source": {"ID": 7, "identity": 20311},
                    "Type": "L3_L4",
                    "drop_reason_desc": "POLICY_DENIED",
                    "is_reply": false,
                    "socket_cookie": "1152921504606846976",
                    "Summary": "TCP Flags: SYN",
                },
                "node_name": "default/w1",
                "time": "2025-03-04T09:12:01.402Z",
            })
        );
        let back: observer::GetFlowsResponse = from_str(&text, Unknown::Refuse).unwrap();
        assert_eq!(back, response());
    }

    #[test]
    fn unknown_fields_are_mistakes_or_not_as_the_reader_wishes() {
        let text = r#"{"source_ip": ["10.0.0.1"], "sourceApp": "x"}"#;
        let error = from_str::<flow::FlowFilter>(text, Unknown::Refuse).unwrap_err();
        assert!(error.to_string().contains("sourceApp"), "{error}");
        let filter: flow::FlowFilter = from_str(text, Unknown::Ignore).unwrap();
        assert_eq!(filter.source_ip, ["10.0.0.1"]);
        let error = from_str::<flow::FlowFilter>("{} {}", Unknown::Ignore).unwrap_err();
        assert!(error.to_string().contains("flow.FlowFilter"), "{error}");
    }
}
