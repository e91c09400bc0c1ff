//! Everything that comes from outside and may be wrong, without a kernel.

use std::collections::BTreeMap;

use hypha_cni::{Version, parse_args, parse_config, run};
use proptest::prelude::*;
use serde_json::Value;

fn call(env: &[(&str, &str)], stdin: &str) -> (u8, Value) {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let mut out = Vec::new();
    let status = run(
        |name| env.get(name).map(|v| (*v).to_owned()),
        stdin.as_bytes(),
        &mut out,
    );
    (status, serde_json::from_slice(&out).unwrap_or(Value::Null))
}

const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"cilium","type":"hypha-cni","agent-socket":"/nonexistent/agent.sock"}"#;

#[test]
fn version_needs_no_configuration() {
    let (status, answer) = call(&[("CNI_COMMAND", "VERSION")], "");
    assert_eq!((status, &answer["cniVersion"]), (0, &Value::from("1.1.0")));
    assert_eq!(
        answer["supportedVersions"],
        serde_json::json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}

#[test]
fn malformed_configurations_tell_code_and_place() {
    let cases = [
        ("", 6, "empty"),
        ("{", 6, "line 1, column 1"),
        ("[]", 6, "line 1"),
        ("{\"cniVersion\": 3}", 6, "column 16"),
        ("{}", 1, "0.1.0"),
        (
            "{\"cniVersion\": \"9.9.9\", \"name\": \"cilium\"}",
            1,
            "9.9.9",
        ),
        ("{\"cniVersion\": \"1.0.0\"}", 7, "field name"),
        (
            "{\"cniVersion\": \"1.0.0\", \"name\": \"a b\"}",
            7,
            "field name",
        ),
        (
            "{\"cniVersion\": \"1.0.0\", \"name\": \"x\", \"log-file\": \"../x\"}",
            7,
            "field log-file",
        ),
        (
            "{\"cniVersion\": \"1.0.0\", \"name\": \"x\", \"agent-socket\": \"x\"}",
            7,
            "field agent-socket",
        ),
        (
            "{\"cniVersion\": \"1.0.0\", \"name\": \"x\",\n \"prevResult\": 5}",
            6,
            "line 2, column 16",
        ),
        (
            "{\"cniVersion\": \"1.1.0\", \"name\": \"x\", \"cni.dev/valid-attachments\": [{}]}",
            6,
            "containerID",
        ),
    ];
    for (text, code, place) in cases {
        let (status, answer) = call(&[("CNI_COMMAND", "ADD")], text);
        assert_eq!(
            (status, answer["code"].as_u64()),
            (1, Some(code)),
            "{text}: {answer}"
        );
        assert!(answer.to_string().contains(place), "{text}: {answer}");
    }
    let big = format!("{GOOD}{}", " ".repeat(2 << 20));
    assert_eq!(call(&[("CNI_COMMAND", "ADD")], &big).1["code"], 6);
}

#[test]
fn malformed_environments_name_the_variable() {
    let base = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nonexistent/ns"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"),
    ];
    let cases = [
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", ""),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../c1"),
        ("CNI_IFNAME", "name-that-is-too-long"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_NETNS", ""),
        ("CNI_ARGS", ""),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a"),
        ("CNI_ARGS", "nonsense"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b c"),
    ];
    for (name, value) in cases {
        let env: Vec<_> = base
            .iter()
            .map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) })
            .collect();
        let (_, answer) = call(&env, GOOD);
        assert_eq!(answer["code"], 4, "{name}={value}: {answer}");
        assert!(
            answer["msg"].as_str().unwrap().starts_with(name),
            "{answer}"
        );
    }
    assert_eq!(
        call(&base, GOOD).1["code"],
        3,
        "and with a sound one the namespace is looked for"
    );
}

#[test]
fn configurations_of_a_list_are_read() {
    let config = parse_config(GOOD.as_bytes()).unwrap();
    assert_eq!(
        (config.version, config.name.as_str(), config.debug),
        (Version::V1_0_0, "cilium", false)
    );
    assert!(config.log_file.as_os_str().is_empty());
    let text = api_conflist();
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    plugin["unknown"] = Value::from("field");
    let config = parse_config(plugin.to_string().as_bytes()).unwrap();
    assert_eq!(
        config.log_file.to_str(),
        Some("/var/run/cilium/cilium-cni.log")
    );
    assert_eq!(
        config.agent_socket.to_str(),
        Some("/var/run/cilium/cilium.sock")
    );
}

fn api_conflist() -> String {
    let log_file = "/var/run/cilium/cilium-cni.log".to_owned();
    api::conflist::Conflist {
        log_file,
        debug: true,
        agent_socket: None,
        exclusive: true,
    }
    .text()
}

#[test]
fn results_of_older_versions_are_understood() {
    let text = r#"{"cniVersion":"0.4.0","name":"cilium","prevResult":{"cniVersion":"0.4.0",
        "interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"version":"4","address":"10.0.0.2/32","interface":0}],
        "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.9"]}}}"#;
    let result = parse_config(text.as_bytes()).unwrap().prev_result.unwrap();
    assert_eq!(
        (result.ips[0].address.as_str(), result.routes[0].gw.as_ref()),
        ("10.0.0.2/32", None)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_config(&bytes);
    }

    #[test]
    fn any_arguments_are_read_or_refused(text in "\\PC{0,100}") {
        let _ = parse_args(&text);
    }

    #[test]
    fn any_failure_is_an_error_of_the_specification(command in "[A-Z]{0,7}", text in "\\PC{0,100}") {
        let (status, answer) = call(&[("CNI_COMMAND", &command)], &text);
        if command != "VERSION" {
            prop_assert_eq!(status, 1);
            prop_assert!(answer["code"].as_u64().unwrap() > 0 && answer["msg"].is_string() && answer["cniVersion"].is_string());
        }
    }
}
