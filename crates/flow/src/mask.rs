//! The fields of a flow that somebody wants: others are left out.
use api::hubble::{flow::Flow, json};
use prost::{
    Message,
    bytes::Buf,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};
use prost_reflect::{Kind, MessageDescriptor};
use prost_types::FieldMask;
use std::collections::BTreeMap;

/// Fields by number; one without fields of its own is wanted whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields(BTreeMap<u32, Self>);

/// Which fields of flows are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask(Fields);

impl Mask {
    /// The mask of these paths, as `source.pod_name`; none if there are no paths: everything is wanted.
    ///
    /// # Errors
    /// A flow has no such field.
    pub fn new(mask: Option<&FieldMask>) -> Result<Option<Self>, String> {
        let paths = mask.map_or(&[][..], |mask| mask.paths.as_slice());
        if paths.is_empty() {
            return Ok(None);
        }
        let flow = json::descriptor::<Flow>().map_err(|error| error.to_string())?;
        let mut fields = Fields::default();
        for path in paths {
            fields.add(&flow, path).ok_or_else(|| {
                format!("a flow has no field {path:?}; accepted are paths as source.pod_name")
            })?;
        }
        Ok(Some(Self(fields)))
    }

    /// The flow with what is wanted alone.
    #[must_use]
    pub fn apply(&self, flow: &Flow) -> Flow {
        Flow::decode(self.keep(&flow.encode_to_vec()).as_slice()).unwrap_or_default()
    }

    /// As [`Mask::apply`], of a flow's bytes; nothing, if they are none of a flow.
    #[must_use]
    pub fn keep(&self, flow: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(flow.len());
        if keep(&mut &*flow, &self.0, &mut kept).is_err() {
            kept.clear();
        }
        kept
    }
}

impl Fields {
    fn add(&mut self, message: &MessageDescriptor, path: &str) -> Option<()> {
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        let field = message.get_field_by_name(name)?;
        let known = self.0.contains_key(&field.number());
        let whole = known
            && self
                .0
                .get(&field.number())
                .is_some_and(|inner| inner.0.is_empty());
        let inner = self.0.entry(field.number()).or_default();
        match (rest, field.kind()) {
            (None, _) => inner.0.clear(),
            // Checked all the same, though all of it is wanted already.
            (Some(rest), Kind::Message(message)) if whole => Self::default().add(&message, rest)?,
            (Some(rest), Kind::Message(message)) => inner.add(&message, rest)?,
            (Some(_), _) => return None,
        }
        Some(())
    }
}

/// Copies the wanted fields of a message.
fn keep(from: &mut &[u8], wanted: &Fields, into: &mut Vec<u8>) -> Result<(), prost::DecodeError> {
    while from.has_remaining() {
        let (number, wire) = decode_key(from)?;
        let start = *from;
        let Some(inner) = wanted.0.get(&number) else {
            skip_field(wire, number, from, DecodeContext::default())?;
            continue;
        };
        encode_key(number, wire, into);
        if inner.0.is_empty() || wire != WireType::LengthDelimited {
            skip_field(wire, number, from, DecodeContext::default())?;
            into.extend_from_slice(&start[..start.len() - from.len()]);
            continue;
        }
        let length = usize::try_from(decode_varint(from)?).unwrap_or(usize::MAX);
        let mut message = &from[..length.min(from.len())];
        from.advance(message.len());
        let mut kept = Vec::with_capacity(message.len());
        keep(&mut message, inner, &mut kept)?;
        encode_varint(kept.len() as u64, into);
        into.extend_from_slice(&kept);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::hubble::flow::{Endpoint, Layer4, Tcp, Verdict, layer4::Protocol};

    fn mask(paths: &[&str]) -> Result<Option<Mask>, String> {
        Mask::new(Some(&FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }))
    }

    fn flow() -> Flow {
        Flow {
            verdict: Verdict::Dropped as i32,
            node_name: "c/n".into(),
            source: Some(Endpoint {
                identity: 5,
                pod_name: "p".into(),
                labels: vec!["a".into(), "b".into()],
                ..Endpoint::default()
            }),
            l4: Some(Layer4 {
                protocol: Some(Protocol::Tcp(Tcp {
                    destination_port: 80,
                    ..Tcp::default()
                })),
            }),
            ..Flow::default()
        }
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let mask = mask(&["source.pod_name", "source.labels", "l4", "l4.TCP"]).unwrap();
        let got = mask.unwrap().apply(&flow());
        let wanted = Flow {
            verdict: 0,
            node_name: String::new(),
            source: Some(Endpoint {
                identity: 0,
                ..flow().source.unwrap()
            }),
            ..flow()
        };
        assert_eq!(got, wanted);
    }

    #[test]
    fn a_mask_of_all_fields_keeps_all() {
        let all = json::descriptor::<Flow>().unwrap();
        let paths: Vec<String> = all.fields().map(|field| field.name().to_owned()).collect();
        let mask = Mask::new(Some(&FieldMask { paths })).unwrap().unwrap();
        assert_eq!(mask.apply(&flow()), flow());
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert_eq!(mask(&[]), Ok(None));
        for path in ["x", "source.x", "verdict.x", "", "source.", "l4.TCP.x"] {
            let error = mask(&["source", "l4", path]).unwrap_err();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
    }
}
