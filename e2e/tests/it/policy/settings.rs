//! What settings of the agents make of policies: each by a change of the ConfigMap, with the whole truth table.

use hypha_e2e::policy::expect::Rules;
use hypha_e2e::policy::objects::{self, cnp, wait_in_force};
use policy::Mode;
use serde_json::{Value, json};
use testkit::skip_unless_root;

use super::theatre::Theatre;
use crate::acceptance::shell::{Release, Shell};

/// Policies that say something of pods, of nodes and of addresses, of both directions, allow and deny.
fn policies() -> Vec<Value> {
    let everywhere = ["0.0.0.0/0", "::/0"];
    vec![
        cnp(
            "a",
            "web",
            &json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}]}]}),
        ),
        cnp(
            "b",
            "addresses",
            &json!({"endpointSelector": {}, "ingress": [{"fromCIDR": everywhere}], "egress": [{"toCIDR": everywhere}]}),
        ),
        cnp(
            "c",
            "denied",
            &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "enableDefaultDeny": {"ingress": false},
                "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "client"}}]}, {"fromEntities": ["host"]}]}),
        ),
    ]
}

#[test]
fn e2e_policy_settings_of_agents() {
    if skip_unless_root() {
        return;
    }
    let mut theatre = Theatre::up("e2e-settings", &[], &[true, false]);
    let wanted = policies();
    let created = theatre.server.create(&wanted);
    wait_in_force(&theatre.stage, &created);
    let rules = || objects::rules(&wanted).unwrap();
    theatre.expect("no setting", &rules());

    let with_mode = |mode| {
        let mut rules = rules();
        rules.settings.mode = mode;
        rules
    };
    let mut localhost = rules();
    localhost.settings.allow_localhost = false;
    let by_address = Rules {
        nodes_by_address: true,
        ..rules()
    };
    let off = [
        ("enable-policy", "default"),
        ("allow-localhost", "auto"),
        ("policy-cidr-match-mode", ""),
    ];
    for (key, value, rules) in [
        ("enable-policy", "always", with_mode(Mode::Always)),
        ("enable-policy", "never", with_mode(Mode::Never)),
        ("allow-localhost", "policy", localhost),
        ("policy-cidr-match-mode", "nodes", by_address),
    ] {
        let others = off.iter().filter(|(other, _)| *other != key);
        let settings: Vec<_> = others.copied().chain([(key, value)]).collect();
        theatre.configure(&settings);
        wait_in_force(&theatre.stage, &created);
        theatre.expect(&format!("{key}={value}"), &rules);
    }
    audit(&mut theatre, &off, &created, rules());
    theatre.stage.cluster.assert_clean();
}

/// With audit everything passes and is told; without it nothing goes on that should not.
#[track_caller]
fn audit(theatre: &mut Theatre, off: &[(&str, &str)], created: &[Value], rules: Rules) {
    let on = [off, &[("policy-audit-mode", "true")]].concat();
    theatre.configure(&on);
    wait_in_force(&theatre.stage, created);
    let pods = theatre.stage.actors.iter().filter(|actor| actor.is_pod());
    let audited = Rules {
        audited: pods.map(|pod| pod.name.clone()).collect(),
        ..rules.clone()
    };
    theatre.expect("policy-audit-mode=true", &audited);
    if let Some(sh) = Shell::new(&theatre.stage.cluster, Release::New) {
        let dbg = "hypha dbg --name $LAB --node node1";
        let monitor = sh.start(&format!("{dbg} monitor -t policy-verdict -t drop"));
        monitor.says("Press Ctrl-C");
        theatre.expect("policy-audit-mode=true again", &audited);
        let said = monitor.says_such("an audited verdict", |text| {
            text.contains("ingress, action audit, auth: disabled, match none")
        });
        assert!(!said.contains("Policy denied"), "{said}");
        let list = sh.ok(&format!("{dbg} endpoint list"));
        assert!(
            list.contains("Disabled (Audit)") && !list.contains("Enabled"),
            "{list}"
        );
    }
    theatre.configure(&[off, &[("policy-audit-mode", "false")]].concat());
    wait_in_force(&theatre.stage, created);
    theatre.expect("policy-audit-mode=false", &rules);
}
