//! Takes out of output what differs from run to run.

use std::sync::LazyLock;

use regex::Regex;

static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"https://127\.0\.0\.1:\d+", "https://SERVER"),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "UID",
        ),
        (
            r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}",
            "DATE",
        ),
        (r#"(resourceVersion"?): "\d+""#, "$1: \"N\""),
        (
            r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4}",
            "DATE",
        ),
        (r"\b10\.96\.\d+\.\d+", "CLUSTER-IP"),
        (r":3\d{4}/(TCP|UDP)", ":NODE-PORT/$1"),
        (r"Resource Version: +\d+", "Resource Version: N"),
        (r"\b\d+(\.\d+)?m?s\b|\b\d+(y\d*d?|d\d*h?)\b", "#s"),
        (r"/tmp/\S+", "/tmp/FILE"),
        (r"kube-api-access-\w{5}", "kube-api-access-RANDOM"),
        (r"[EIW]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", "LOG "),
    ]
    .map(|(rule, with)| (Regex::new(rule).unwrap(), with))
    .to_vec()
});

static GAPS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\S) {2,}").unwrap());

/// The text without times, identifiers, ports and widths of columns.
pub fn normal(text: &str) -> String {
    let mut out = text.to_owned();
    for (rule, with) in RULES.iter() {
        out = rule.replace_all(&out, *with).into_owned();
    }
    let lines = out.lines().map(|line| {
        let gaps = GAPS.replace_all(line, "$1  ");
        format!("{}\n", gaps.trim_end())
    });
    lines.collect()
}

#[test]
fn what_differs_goes() {
    let text = "NAME    AGE\nweb     17s  \n  uid: 3f2504e0-4f89-41d3-9a0c-0305e82c3301\nresourceVersion: \"12\"\n";
    assert_eq!(
        normal(text),
        "NAME  AGE\nweb  #s\n  uid: UID\nresourceVersion: \"N\"\n"
    );
}
