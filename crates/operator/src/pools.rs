//! Pools that the settings ask for, made at start if they are not there.
use k8s::crd::{CiliumPodIpPoolSpec, PoolRange};
use serde_json::Value;
use std::collections::BTreeMap;

/// What `auto-create-cilium-pod-ip-pools` asks for: specs by name. The text is a JSON object, or `name=…` pairs with blanks between
/// them; a pool is `ipv4-cidrs:10.10.0.0/16,10.11.0.0/16;ipv4-mask-size:27`, and the same with `ipv6`.
///
/// # Errors
/// What is wrong, and what is accepted.
pub(crate) fn wanted(text: &str) -> Result<BTreeMap<String, CiliumPodIpPoolSpec>, String> {
    let wrong = |why: String| {
        format!(
            "auto-create-cilium-pod-ip-pools: {why}; accepted: {{\"default\": \"ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:27\"}}"
        )
    };
    pairs(text)
        .map_err(&wrong)?
        .into_iter()
        .map(|(name, text)| {
            let spec = spec(&text).map_err(|why| wrong(format!("pool {name}: {why}")))?;
            Ok((name, spec))
        })
        .collect()
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let text = text.trim();
    if text.starts_with('{') {
        let all: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
        let flat = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("{other} is not a text")),
        };
        return all
            .into_iter()
            .map(|(name, value)| flat(value).map(|text| (name, text)))
            .collect();
    }
    let pair = |part: &str| {
        part.split_once('=')
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .ok_or_else(|| format!("{part:?} is not name=…"))
    };
    text.split_whitespace().map(pair).collect()
}

fn spec(text: &str) -> Result<CiliumPodIpPoolSpec, String> {
    let mut spec = CiliumPodIpPoolSpec::default();
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (key, value) = part
            .trim()
            .split_once(':')
            .ok_or_else(|| format!("{part:?} is not key:value"))?;
        let range = match key.get(..5) {
            Some("ipv4-") => spec.ipv4.get_or_insert_with(PoolRange::default),
            Some("ipv6-") => spec.ipv6.get_or_insert_with(PoolRange::default),
            _ => return Err(format!("there is no {key:?}")),
        };
        match &key[5..] {
            "cidrs" => {
                range.cidrs = value.split(',').map(|net| net.trim().to_owned()).collect();
            }
            "mask-size" => {
                range.mask_size = value
                    .trim()
                    .parse()
                    .map_err(|_| format!("{key}: {value:?} is not a number"))?;
            }
            _ => return Err(format!("there is no {key:?}")),
        }
    }
    let complete = |range: &Option<PoolRange>| {
        range
            .as_ref()
            .is_none_or(|range| !range.cidrs.is_empty() && range.mask_size > 0)
    };
    if !complete(&spec.ipv4) || !complete(&spec.ipv6) {
        return Err("each family needs cidrs and mask-size".to_owned());
    }
    if spec == CiliumPodIpPoolSpec::default() {
        return Err("it has no ranges".to_owned());
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_pools() {
        let json = wanted(
            r#"{"default": "ipv4-cidrs:10.10.0.0/16,10.12.0.0/16;ipv4-mask-size:27", "red": "ipv6-cidrs:fd00::/104;ipv6-mask-size:120"}"#,
        )
        .unwrap();
        let range = json["default"].ipv4.as_ref().unwrap();
        assert_eq!(
            (
                range.cidrs.len(),
                range.mask_size,
                json["red"].ipv4.is_none()
            ),
            (2, 27, true)
        );
        let plain = wanted(
            "default=ipv4-cidrs:10.10.0.0/16,10.12.0.0/16;ipv4-mask-size:27 red=ipv6-cidrs:fd00::/104;ipv6-mask-size:120",
        );
        assert_eq!(plain.unwrap(), json);
        assert!(wanted("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, why) in [
            ("{", "no JSON object"),
            ("default", "is not name=…"),
            ("a=ipv4-cidrs:10.0.0.0/8", "needs cidrs and mask-size"),
            ("a=ipv5-cidrs:10.0.0.0/8", "there is no \"ipv5-cidrs\""),
            ("a=ipv4-mask-size:x", "is not a number"),
            ("a=;", "no ranges"),
        ] {
            let error = wanted(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
