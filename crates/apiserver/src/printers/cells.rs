//! What many columns share.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;

pub(super) const NAME: Column = Column::new("Name", |o| text(&o["metadata"]["name"]));
pub(super) const AGE: Column = Column::new("Age", |o| age(&o["metadata"]["creationTimestamp"]));

/// Shown where there is nothing.
pub(super) const NONE: &str = "<none>";

/// Elements of a list; none when it is no list.
pub(super) fn list(value: &Value) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator {
    value
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

/// A string of an object; empty when absent.
pub(super) fn str_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A string as it is.
pub(super) fn text(value: &Value) -> Value {
    Value::from(str_of(value))
}

/// A string, or something else where there is none.
pub(super) fn text_or(value: &Value, other: &str) -> Value {
    Value::from(value.as_str().filter(|t| !t.is_empty()).unwrap_or(other))
}

/// A string or `<none>`.
pub(super) fn or_none(value: &Value) -> Value {
    text_or(value, NONE)
}

/// A string or `<unknown>`.
pub(super) fn or_unknown(value: &Value) -> Value {
    text_or(value, "<unknown>")
}

/// A string or `<unset>`.
pub(super) fn or_unset(value: &Value) -> Value {
    text_or(value, "<unset>")
}

/// A number, 0 when absent.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A number as a cell, 0 when absent.
pub(super) fn number(value: &Value) -> Value {
    Value::from(int(value))
}

/// A text that need not be there: `<none>` for an empty one.
pub(super) fn some_text(text: String) -> Value {
    Value::from(if text.is_empty() {
        NONE.to_owned()
    } else {
        text
    })
}

/// Whether it is set, as words.
pub(super) fn boolean(value: &Value) -> Value {
    Value::from(match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    })
}

/// A time, if that is one.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long ago something was.
pub(super) fn age(since: &Value) -> Value {
    match time(since) {
        Some(since) => Value::from(ago(since)),
        None => Value::from("<unknown>"),
    }
}

/// How long ago a time is, as text.
pub(super) fn ago(since: Timestamp) -> String {
    duration(Timestamp::now().as_second() - since.as_second())
}

/// The first of several fields that holds a time.
pub(super) fn first_time<'a>(object: &'a Value, fields: &[&str]) -> &'a Value {
    fields
        .iter()
        .map(|field| &object[*field])
        .find(|time| time.is_string())
        .unwrap_or(&Value::Null)
}

/// A time span in at most two units, finer while it is short.
pub(super) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A map of strings as `a=b,c=d`; `<none>` when empty.
pub(super) fn labels(map: &Value) -> Value {
    let pairs = map.as_object().into_iter().flatten();
    let shown: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", str_of(v))).collect();
    some_text(shown.join(","))
}

/// A label selector as users would write it; `<none>` when it selects by nothing.
pub(super) fn selector(selector: &Value) -> Value {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<(String, String)> = pairs
        .map(|(k, v)| (k.clone(), format!("{k}={}", str_of(v))))
        .collect();
    for term in list(&selector["matchExpressions"]) {
        let key = str_of(&term["key"]).to_owned();
        let mut values: Vec<&str> = list(&term["values"]).map(str_of).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match str_of(&term["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        };
        terms.push((key, shown));
    }
    terms.sort();
    let shown: Vec<String> = terms.into_iter().map(|(_, shown)| shown).collect();
    some_text(shown.join(","))
}

/// A field of every element, with commas between.
pub(super) fn joined(elements: &Value, field: &str) -> Value {
    let all: Vec<&str> = list(elements).map(|e| str_of(&e[field])).collect();
    Value::from(all.join(","))
}

/// At most three of many, and how many more there are.
pub(super) fn three(all: &[String]) -> String {
    match all.len() {
        0..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_read_as_usual() {
        for (seconds, shown) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (900_000, "10d"),
            (70_000_000, "2y80d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }

    #[test]
    fn selectors_read_as_users_write_them() {
        let shown = selector(&json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]}));
        assert_eq!(shown, "a in (x,y),b=1,!c");
        assert_eq!(selector(&json!({})), NONE);
        assert_eq!(labels(&Value::Null), NONE);
    }
}
