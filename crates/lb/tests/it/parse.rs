//! Custom resources that cannot be taken, with the words for people.
use crate::generate::Dice;
use hypha_lb::parse::{l2_policy, pool, redirect};
use proptest::prelude::*;
use serde_json::{Value, json};

fn wrong<T: std::fmt::Debug>(read: Result<T, hypha_lb::parse::Wrong>, words: &[&str]) {
    let text = read.unwrap_err().to_string();
    assert!(
        words.iter().all(|word| text.contains(word)),
        "{text:?} lacks one of {words:?}"
    );
}

#[test]
fn pools() {
    let with = |block: Value| pool("p", 0, &json!({"blocks": [block]}));
    assert!(with(json!({"cidr": "10.0.0.0/24"})).is_ok() && pool("p", 0, &json!({})).is_ok());
    assert!(
        pool("p", 0, &json!({"cidrs": [{"cidr": "10.0.0.0/24"}]})).is_ok(),
        "the older name of blocks"
    );
    wrong(
        with(json!({"cidr": "10.0.0.0/33"})),
        &["spec.blocks[0].cidr", "10.0.0.0/33", "accepted"],
    );
    wrong(with(json!({})), &["spec.blocks[0]", "nothing is given"]);
    wrong(
        with(json!({"start": "10.0.0.9", "stop": "10.0.0.1"})),
        &["10.0.0.9 - 10.0.0.1 is no range"],
    );
    wrong(
        with(json!({"start": "10.0.0.9", "stop": "fd00::1"})),
        &["one family"],
    );
    wrong(
        with(json!({"cidr": "10.0.0.0/24", "start": "10.0.0.9"})),
        &["exclude each other"],
    );
    wrong(
        pool("p", 0, &json!({"allowFirstLastIPs": true})),
        &["spec.allowFirstLastIPs", "no string"],
    );
    wrong(
        pool("p", 0, &json!({"blocks": 7})),
        &["spec.blocks", "no list"],
    );
    wrong(
        pool("p", 0, &json!({"block": []})),
        &["unknown field \"block\"", "serviceSelector"],
    );
}

#[test]
fn selectors_and_devices_of_l2_policies() {
    let selector = |value: Value| {
        l2_policy(
            "p",
            &json!({"serviceSelector": {"matchExpressions": [value]}}),
        )
    };
    wrong(
        selector(json!({"key": "a", "operator": "NotIn"})),
        &[
            "spec.serviceSelector.matchExpressions[0]",
            "NotIn with 0 values",
        ],
    );
    wrong(
        selector(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
        &["no values"],
    );
    wrong(
        selector(json!({"key": "a", "operator": "Is"})),
        &["\"Is\" is not known", "DoesNotExist"],
    );
    wrong(
        l2_policy("p", &json!({"interfaces": ["eth("]})),
        &["spec.interfaces[0]", "no regular expression"],
    );
    wrong(
        l2_policy("p", &json!({"externalIPs": "yes"})),
        &["neither true nor false"],
    );
    wrong(l2_policy("p", &json!([])), &["spec", "no object"]);
}

#[test]
fn redirects() {
    let port = |port: &str, name: &str| json!({"port": port, "name": name, "protocol": "TCP"});
    let read = |frontend: Value, to: Vec<Value>| {
        let backend = json!({"localEndpointSelector": {}, "toPorts": to});
        redirect(
            "a/r",
            0,
            &json!({"redirectFrontend": frontend, "redirectBackend": backend}),
        )
    };
    let address =
        |from: Vec<Value>| json!({"addressMatcher": {"ip": "169.254.0.1", "toPorts": from}});
    let service =
        |namespace: &str| json!({"serviceMatcher": {"serviceName": "s", "namespace": namespace}});
    assert!(read(address(vec![port("80", "")]), vec![port("8080", "")]).is_ok());
    assert!(
        read(
            address(vec![port("80", "A"), port("81", "b")]),
            vec![port("8080", "a"), port("8081", "B")]
        )
        .is_ok()
    );
    assert!(read(service("a"), vec![port("8080", "")]).is_ok());
    wrong(
        read(service("b"), vec![port("8080", "")]),
        &["\"b\" is not the policy's own namespace", "accepted: a"],
    );
    wrong(
        read(json!({}), vec![port("8080", "")]),
        &["addressMatcher or serviceMatcher"],
    );
    wrong(
        read(address(vec![]), vec![port("8080", "")]),
        &["toPorts is empty"],
    );
    wrong(
        read(address(vec![port("80", "")]), vec![]),
        &["spec.redirectBackend", "toPorts is empty"],
    );
    wrong(
        read(
            address(vec![port("80", ""), port("81", "")]),
            vec![port("8080", "")],
        ),
        &["a name of its own"],
    );
    wrong(
        read(
            address(vec![port("80", "a"), port("81", "b")]),
            vec![port("8080", "a"), port("8081", "c")],
        ),
        &["\"b\""],
    );
    wrong(
        read(address(vec![port("0", "")]), vec![port("8080", "")]),
        &["0 is no port"],
    );
    wrong(
        read(address(vec![port("99999", "")]), vec![port("8080", "")]),
        &["99999", "1 to 65535"],
    );
    wrong(
        read(
            json!({"addressMatcher": {"ip": "0.0.0.0", "toPorts": [port("80", "")]}}),
            vec![port("8080", "")],
        ),
        &["cannot be redirected"],
    );
}

/// Something like an object: names that mean something, with values that may fit.
fn some_json(dice: &mut Dice, depth: usize) -> Value {
    let names = [
        "blocks",
        "cidr",
        "start",
        "stop",
        "serviceSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "interfaces",
        "externalIPs",
        "redirectFrontend",
        "redirectBackend",
        "addressMatcher",
        "serviceMatcher",
        "toPorts",
        "port",
        "protocol",
        "ip",
        "name",
        "namespace",
        "serviceName",
        "localEndpointSelector",
        "disabled",
        "allowFirstLastIPs",
    ];
    let texts = [
        "10.0.0.0/24",
        "10.0.0.9",
        "fd00::1",
        "80",
        "TCP",
        "a",
        "In",
        "Exists",
        "(",
        "",
        "Yes",
        "é",
    ];
    match dice.below(if depth == 0 { 4 } else { 8 }) {
        0 => Value::Null,
        1 => json!(dice.rare(2)),
        2 => json!(dice.below(70_000)),
        3 => json!(dice.pick(&texts)),
        4 => (0..dice.below(4))
            .map(|_| some_json(dice, depth - 1))
            .collect(),
        _ => (0..dice.below(5))
            .map(|_| (dice.pick(&names).to_owned(), some_json(dice, depth - 1)))
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_object_breaks_a_reader(seed in any::<u64>()) {
        let value = some_json(&mut Dice::new(seed), 5);
        let mut errors = Vec::new();
        match pool("p", 0, &value) {
            Ok(pool) => prop_assert!(pool.total() >= pool.blocks.len() as u128),
            Err(wrong) => errors.push(wrong),
        }
        errors.extend(l2_policy("p", &value).err());
        match redirect("a/r", 0, &value) {
            Ok(redirect) => prop_assert!(!redirect.to_ports.is_empty()),
            Err(wrong) => errors.push(wrong),
        }
        prop_assert!(errors.iter().all(|wrong| wrong.path.starts_with("spec") && !wrong.accepted.is_empty()));
    }
}
