//! What types and fields are for, in words: `kubectl explain` prints them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Lines `Type: text` and `Type.field: text`, types by their names without packages.
const TEXT: &str = include_str!("descriptions.txt");

static DESCRIPTIONS: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    TEXT.lines()
        .filter_map(|line| line.split_once(": "))
        .collect()
});

/// What a type (an empty field) or one of its fields is for, if that is written down.
pub fn description(type_name: &str, field: &str) -> Option<&'static str> {
    let short = type_name.rsplit('.').next().unwrap_or(type_name);
    if field.is_empty() {
        return DESCRIPTIONS.get(short).copied();
    }
    DESCRIPTIONS
        .get(format!("{short}.{field}").as_str())
        .copied()
}

#[cfg(test)]
mod tests {
    use super::super::all;
    use super::*;

    #[test]
    fn every_description_is_of_something() {
        let exists = |place: &str| match place.split_once('.') {
            None => all().any(|ty| ty.short_name() == place),
            Some((ty, field)) => all().any(|t| t.short_name() == ty && t.field(field).is_some()),
        };
        for (line, text) in TEXT.lines().enumerate() {
            let (place, text) = text.split_once(": ").unwrap_or(("", ""));
            assert!(
                exists(place) && text.ends_with('.'),
                "descriptions.txt, line {}: {place}",
                line + 1
            );
        }
        assert!(description("io.k8s.api.core.v1.Pod", "spec").is_some());
    }
}
