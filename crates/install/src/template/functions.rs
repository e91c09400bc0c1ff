//! The functions that templates call, by the names that Helm gives them.
use serde_json::{Map, Number, Value};

use super::certs;
use super::yaml::to_yaml;

/// What a value is called in messages and by `kindIs`.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// Whether `if` takes its branch.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as an action prints it.
pub(super) fn printed(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) | Value::Object(_) => Err(format!(
            "a {} cannot be printed; toYaml and join can",
            kind(value)
        )),
    }
}

/// Calls a function; what the pipe brings is the last argument.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("default", [instead, value]) => Ok(if truth(value) { value } else { instead }.clone()),
        ("ternary", [yes, no, test]) => Ok(if truth(test) { yes } else { no }.clone()),
        ("required", [text, Value::Null]) => Err(printed(text)?),
        ("required", [_, value]) => Ok(value.clone()),
        ("fail", [text]) => Err(printed(text)?),
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [first, others @ ..]) if !others.is_empty() => equal(first, others),
        ("ne", [first, other]) => {
            equal(first, std::slice::from_ref(other)).map(|same| Value::Bool(same == false))
        }
        ("list", items) => Ok(items.to_vec().into()),
        ("append", [Value::Array(items), item]) => {
            Ok(items.iter().chain([item]).cloned().collect())
        }
        ("kindIs", [Value::String(wanted), value]) => Ok((kind(value) == wanted).into()),
        ("int" | "int64" | "float64", [value]) => number(name, value),
        ("semverCompare", [Value::String(wanted), Value::String(version)]) => {
            at_least(wanted, version).map(Value::Bool)
        }
        ("lt", [less, more]) => Ok((whole(less)? < whole(more)?).into()),
        ("add", [first, second]) => Ok(whole(first)?.saturating_add(whole(second)?).into()),
        ("mul", [first, second]) => Ok(whole(first)?.saturating_mul(whole(second)?).into()),
        ("toYaml", [value]) => Ok(to_yaml(value).into()),
        ("toJson", [value]) => Ok(value.to_string().into()),
        ("fromYaml" | "fromYamlArray", [Value::String(text)]) => {
            serde_saphyr::from_str(text).map_err(|error| error.to_string())
        }
        ("printf", [Value::String(format), values @ ..]) => formatted(format, values),
        ("print", values) => values
            .iter()
            .map(printed)
            .collect::<Result<String, _>>()
            .map(Value::from),
        ("dict" | "get" | "hasKey" | "merge", _) => maps(name, arguments),
        _ => certs::call(name, arguments).unwrap_or_else(|| texts(name, arguments)),
    }
}

/// Texts are equal to texts alone, numbers to numbers of the same kind: as in the original, where a comparison of others fails.
fn equal(first: &Value, others: &[Value]) -> Result<Value, String> {
    let mut same = false;
    for other in others {
        if kind(first) != kind(other) && !first.is_null() && !other.is_null() {
            return Err(format!(
                "a {} is not comparable to a {}",
                kind(first),
                kind(other)
            ));
        }
        same |= first == other;
    }
    Ok(same.into())
}

fn whole(value: &Value) -> Result<i64, String> {
    let number = value.as_i64();
    number.ok_or_else(|| format!("a {} is no whole number", kind(value)))
}

fn number(name: &str, value: &Value) -> Result<Value, String> {
    let float = match value {
        Value::Null => Some(0.0),
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => Some(text.parse().unwrap_or(0.0)),
        Value::Array(_) | Value::Object(_) => None,
    };
    let float = float.ok_or_else(|| format!("a {} is no number", kind(value)))?;
    if name == "float64" {
        return Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| "no number".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, reason = "what the function is for")]
    Ok((float.trunc() as i64).into())
}

/// Whether a version such as `v1.30.2` is what `>=1.21-0` wants: of the wishes of Helm this one alone, by major and minor number.
///
/// # Errors
/// Another wish, or no version.
pub(crate) fn at_least(wanted: &str, version: &str) -> Result<bool, String> {
    let least = wanted.strip_prefix(">=").and_then(major_minor);
    let least = least.ok_or_else(|| format!("{wanted} is no version as >=1.21-0"))?;
    let found = major_minor(version.trim_start_matches('v'));
    let found = found.ok_or_else(|| format!("{version} is no version as v1.30.2"))?;
    Ok(found >= least)
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let (major, rest) = version.split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    Some((
        major.parse().ok()?,
        rest[..end.unwrap_or(rest.len())].parse().ok()?,
    ))
}

/// `%s`, `%d`, `%v`, `%q` and `%%`.
fn formatted(format: &str, values: &[Value]) -> Result<Value, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut parts = format.split('%');
    out.push_str(parts.next().unwrap_or_default());
    let mut literal = false;
    for part in parts {
        // Two of them beside each other are one.
        if part.is_empty() && !literal {
            out.push('%');
            literal = true;
            continue;
        }
        if std::mem::take(&mut literal) {
            out.push_str(part);
            continue;
        }
        let verb = part.chars().next().unwrap_or_default();
        let value = values
            .next()
            .ok_or_else(|| format!("no value for %{verb}"))?;
        match (verb, kind(value)) {
            ('s', "string") | ('d', "int64") | ('v', _) => out.push_str(&printed(value)?),
            ('q', "string") => out.push_str(&value.to_string()),
            (verb, kind) => return Err(format!("%{verb} with a {kind}")),
        }
        out.push_str(&part[verb.len_utf8()..]);
    }
    Ok(out.into())
}

fn maps(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("dict", pairs) if pairs.len() % 2 == 0 => {
            let mut map = Map::new();
            for pair in pairs.chunks_exact(2) {
                map.insert(printed(&pair[0])?, pair[1].clone());
            }
            Ok(map.into())
        }
        ("get", [Value::Object(map), Value::String(key)]) => {
            Ok(map.get(key).cloned().unwrap_or_else(|| "".into()))
        }
        ("hasKey", [Value::Object(map), Value::String(key)]) => Ok(map.contains_key(key).into()),
        ("merge", maps @ [Value::Object(_), ..]) => {
            let mut merged = Value::Object(Map::new());
            for map in maps.iter().rev() {
                overlay(&mut merged, map)?;
            }
            Ok(merged)
        }
        _ => wrong(arguments),
    }
}

/// Puts `above` over `below`: what is empty in it, `false` and 0 too, covers nothing.
fn overlay(below: &mut Value, above: &Value) -> Result<(), String> {
    let (Value::Object(below), Value::Object(above)) = (below, above) else {
        return Err("what is merged must be maps".to_owned());
    };
    for (key, value) in above {
        match below.get_mut(key) {
            Some(under @ Value::Object(_)) if value.is_object() => overlay(under, value)?,
            Some(_) if !truth(value) => {}
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

fn texts(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |value: &Value| printed(value);
    match (name, arguments) {
        ("quote", values) => {
            let quoted = values.iter().filter(|value| !value.is_null());
            let quoted = quoted.map(|v| Ok(Value::from(text(v)?).to_string()));
            Ok(quoted.collect::<Result<Vec<_>, String>>()?.join(" ").into())
        }
        ("toString", [value]) => Ok(text(value)?.into()),
        ("trim", [value]) => Ok(text(value)?.trim().into()),
        ("indent", [Value::Number(by), value]) => Ok(indented(by, &text(value)?).into()),
        ("nindent", [Value::Number(by), value]) => {
            Ok(format!("\n{}", indented(by, &text(value)?)).into())
        }
        ("trunc", [Value::Number(length), value]) => {
            let length = usize::try_from(length.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
            Ok(text(value)?.chars().take(length).collect::<String>().into())
        }
        ("trimSuffix", [Value::String(end), Value::String(value)]) => {
            Ok(value.strip_suffix(end.as_str()).unwrap_or(value).into())
        }
        ("hasPrefix", [Value::String(start), Value::String(value)]) => {
            Ok(value.starts_with(start.as_str()).into())
        }
        ("replace", [Value::String(old), Value::String(new), Value::String(value)]) => {
            Ok(value.replace(old.as_str(), new).into())
        }
        ("splitList", [Value::String(between), Value::String(value)]) => {
            Ok(value.split(between.as_str()).collect())
        }
        ("join", [Value::String(between), Value::Array(items)]) => {
            let items = items.iter().filter(|item| !item.is_null()).map(text);
            Ok(items.collect::<Result<Vec<_>, _>>()?.join(between).into())
        }
        ("join", [_, value]) => Ok(text(value)?.into()),
        ("dir", [Value::String(path)]) => {
            let parent = path
                .trim_end_matches('/')
                .rsplit_once('/')
                .map(|(parent, _)| parent);
            Ok(parent
                .filter(|parent| !parent.is_empty())
                .unwrap_or("/")
                .into())
        }
        ("sha256sum", [Value::String(value)]) => {
            let digest = ring::digest::digest(&ring::digest::SHA256, value.as_bytes());
            let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
            Ok(hex.collect::<String>().into())
        }
        _ => wrong(arguments),
    }
}

fn wrong(arguments: &[Value]) -> Result<Value, String> {
    let kinds: Vec<&str> = arguments.iter().map(kind).collect();
    Err(format!(
        "no such function, or not for these arguments: {}",
        kinds.join(", ")
    ))
}

fn indented(by: &Number, text: &str) -> String {
    let by = usize::try_from(by.as_u64().unwrap_or(0)).unwrap_or(0);
    let lines = text.split('\n').map(|line| format!("{:by$}{line}", ""));
    lines.collect::<Vec<_>>().join("\n")
}
