//! An expression or pattern of a rule, and a text: compiled it says what a plain reading says.

use hypha_proxy::config::{
    Direction, DnsRule, Endpoint, HttpRule, PortRules, Rules, Snapshot, Transport,
};
use hypha_proxy::policy::{HttpRequest, Policy, Scope, Selection, canonical};

fn select(rules: Rules) -> Selection {
    let port = PortRules {
        direction: Direction::Egress,
        transport: Transport::Tcp,
        first: 0,
        last: u16::MAX,
        peers: None,
        origin: String::new(),
        rules,
    };
    let endpoint = Endpoint {
        id: 1,
        ports: vec![port],
        ..Endpoint::default()
    };
    let snapshot = Snapshot {
        version: 1,
        endpoints: vec![endpoint],
        ..Snapshot::default()
    };
    let scope = Scope {
        endpoint: 1,
        direction: Direction::Egress,
        transport: Transport::Tcp,
        port: 1,
        peer: 1,
    };
    Policy::compile(&snapshot, None).select(&scope)
}

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Long expressions are slow to compile and find nothing that short ones do not.
    let Some((pattern, subject)) = text
        .split_once('\n')
        .filter(|(pattern, _)| pattern.len() <= 64)
    else {
        return;
    };
    let rule = HttpRule {
        path: Some(pattern.to_owned()),
        ..HttpRule::default()
    };
    let headers = http::HeaderMap::new();
    let request = HttpRequest {
        method: "GET",
        path: subject,
        host: b"",
        headers: &headers,
    };
    let found = select(Rules::Http(vec![rule.clone(), rule])).http(&request);
    // Alone it is understood, and a line's end keeps a comment of its own from what is put behind it.
    let plain = regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .build()
        .ok()
        .and_then(|_| {
            let whole = if pattern.contains("(?") || pattern.contains('#') {
                return None;
            } else {
                format!("^(?:{pattern})$")
            };
            regex::RegexBuilder::new(&whole)
                .size_limit(1 << 20)
                .build()
                .ok()
        });
    if let Some(plain) = plain {
        assert_eq!(
            found.passes(),
            plain.is_match(subject),
            "{pattern:?} {subject:?}"
        );
    }
    let plain_name = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b))
            && !text.is_empty()
    };
    if plain_name(pattern) && plain_name(subject) {
        let found = select(Rules::Dns(vec![DnsRule::MatchPattern(pattern.to_owned())]))
            .dns(&canonical(subject));
        let escaped = regex::escape(&canonical(pattern)).replace("\\*", "[-a-zA-Z0-9_]*");
        let plain = regex::Regex::new(&format!("^{escaped}$")).expect("a pattern of names");
        assert_eq!(
            found.passes(),
            pattern == "*" || plain.is_match(&canonical(subject)),
            "{pattern:?} {subject:?}"
        );
    }
}
