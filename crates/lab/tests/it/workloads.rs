//! Pods as users write them, looked at with the real kubectl: parts, volumes, probes, hooks, images.

use std::time::{Duration, Instant};

use testkit::wait_until;

use crate::kubectl::{LIMIT, create, events, field, kubectl, ok, skip_without_kubectl, wait_field};
use crate::pods::{ONE_PLUGIN, lab, lab_with};

const PARTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, file.txt: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: open sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: parts, labels: {app: parts}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 2
  hostAliases: [{ip: 1.2.3.4, hostnames: [elsewhere]}]
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, 'echo made by first > /shared/f'], volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: side, image: busybox, restartPolicy: Always, command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done']}
  containers:
  - name: main
    image: nicolaka/netshoot
    command: [sh, -c, 'echo started; sleep 0.3; echo oops >&2; trap \"exit 0\" TERM; while :; do sleep 0.1; done']
    workingDir: /shared
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    envFrom: [{prefix: S_, configMapRef: {name: settings}}]
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /etc/settings}
    - {name: settings, mountPath: /etc/one.txt, subPath: file.txt}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: about, mountPath: /about}
    - {name: node, mountPath: /node}
  - {name: web, image: traefik/whoami, readinessProbe: {httpGet: {path: /health, port: 80}}}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: node, hostPath: {path: /run/of-the-node, type: DirectoryOrCreate}}
";

#[test]
fn lab_parts_of_a_pod() {
    if skip_without_kubectl() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    create(&lab, PARTS);
    ok(kubectl(
        &lab,
        &[
            "wait",
            "--for=condition=Ready",
            "pod/parts",
            "--timeout=30s",
        ],
    ));
    assert_eq!(
        field(
            &lab,
            "parts",
            ".status.initContainerStatuses[*].state.terminated.reason"
        ),
        "Completed"
    );
    let sh = |script: &str| {
        ok(kubectl(
            &lab,
            &["exec", "parts", "-c", "main", "--", "sh", "-c", script],
        ))
    };
    assert_eq!(
        sh("pwd; cat f; echo $PASSWORD,$NODE,$S_color"),
        "/shared\nmade by first\nopen sesame,node1,blue\n"
    );
    assert_eq!(
        sh("cat /etc/settings/color /etc/one.txt /about/labels"),
        "bluehelloapp=\"parts\""
    );
    assert_eq!(
        sh("stat -Lc %a /keys/password; touch /keys/x 2>/dev/null || echo read-only"),
        "400\nread-only\n"
    );
    assert!(sh("cat /etc/hosts").contains("1.2.3.4\telsewhere"));
    assert!(
        sh("cat /etc/resolv.conf")
            .contains("search default.svc.cluster.local svc.cluster.local cluster.local")
    );
    // What a container writes stays in it.
    let stray = format!("/usr/stray-{}", lab.name());
    sh(&format!(
        "echo x > {stray}; echo x > /node/file; test -e {stray}"
    ));
    assert!(!std::path::Path::new(&stray).exists());
    assert_eq!(lab.sh("node1", "cat /run/of-the-node/file"), "x\n");
    // Logs know streams apart from containers, and times.
    assert_eq!(
        ok(kubectl(&lab, &["logs", "parts", "-c", "main"])),
        "started\noops\n"
    );
    assert!(
        ok(kubectl(
            &lab,
            &["logs", "parts", "-c", "main", "--tail=1", "--timestamps"]
        ))
        .ends_with("Z oops\n")
    );
    // A change of an object reaches the volume.
    ok(kubectl(
        &lab,
        &[
            "patch",
            "configmap",
            "settings",
            "-p",
            "{\"data\":{\"color\":\"red\"}}",
        ],
    ));
    wait_until("the volume changed", LIMIT, || {
        (sh("cat /etc/settings/color") == "red").then_some(())
    });
    assert_eq!(sh("cat /etc/one.txt"), "hello");
    for reason in ["Pulled", "Created", "Started"] {
        assert!(events(&lab, "parts").contains(reason), "{reason}");
    }
    let began = Instant::now();
    ok(kubectl(&lab, &["delete", "pod", "parts"]));
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(lab.sh("node1", "ls /run/kubelet/pods"), "");
}

#[test]
fn lab_probes_and_hooks() {
    if skip_without_kubectl() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    let pod = |name: &str, container: &str| {
        create(
            &lab,
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, terminationGracePeriodSeconds: 2, volumes: [{{name: v, hostPath: {{path: /run/probes, type: DirectoryOrCreate}}}}], containers: [{container}]}}}}"
            ),
        );
    };
    let wait = "command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done'], volumeMounts: [{name: v, mountPath: /v}]";
    pod(
        "ready",
        &format!(
            "{{name: c, image: busybox, {wait}, readinessProbe: {{exec: {{command: [test, -e, /v/ready]}}, periodSeconds: 1, failureThreshold: 1}}}}"
        ),
    );
    pod(
        "live",
        &format!(
            "{{name: c, image: busybox, {wait}, startupProbe: {{exec: {{command: [test, -e, /v/up]}}, periodSeconds: 1, failureThreshold: 60}}, livenessProbe: {{exec: {{command: [test, -e, /v/alive]}}, periodSeconds: 1, failureThreshold: 2}}}}"
        ),
    );
    pod(
        "web",
        "{name: c, image: nginx, ports: [{name: http, containerPort: 80}], readinessProbe: {tcpSocket: {port: http}}, livenessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}}",
    );
    pod(
        "hooks",
        &format!(
            "{{name: c, image: busybox, {wait}, lifecycle: {{postStart: {{exec: {{command: [touch, /v/post]}}}}, preStop: {{exec: {{command: [touch, /v/pre]}}}}}}}}"
        ),
    );
    ok(kubectl(
        &lab,
        &[
            "wait",
            "--for=condition=Ready",
            "pod/web",
            "pod/hooks",
            "--timeout=30s",
        ],
    ));
    assert_eq!(
        field(
            &lab,
            "ready",
            ".status.conditions[?(@.type==\"Ready\")].status"
        ),
        "False"
    );
    lab.sh("node1", "touch /run/probes/ready");
    wait_field(
        &lab,
        "ready",
        ".status.conditions[?(@.type==\"Ready\")].status",
        "True",
    );
    lab.sh("node1", "rm /run/probes/ready");
    wait_field(
        &lab,
        "ready",
        ".status.conditions[?(@.type==\"Ready\")].status",
        "False",
    );
    // Not asked whether it lives before it is up.
    assert_eq!(
        field(&lab, "live", ".status.containerStatuses[0].started"),
        "false"
    );
    assert_eq!(
        field(&lab, "live", ".status.containerStatuses[0].restartCount"),
        "0"
    );
    lab.sh("node1", "touch /run/probes/alive /run/probes/up");
    wait_field(&lab, "live", ".status.containerStatuses[0].ready", "true");
    lab.sh("node1", "rm /run/probes/alive");
    wait_field(
        &lab,
        "live",
        ".status.containerStatuses[0].restartCount",
        "1",
    );
    let said = events(&lab, "live");
    assert!(
        said.contains("Liveness probe failed")
            && said.contains("failed liveness probe, will be restarted"),
        "{said}"
    );
    lab.sh("node1", "test -e /run/probes/post -a ! -e /run/probes/pre");
    ok(kubectl(&lab, &["delete", "pod", "hooks"]));
    lab.sh("node1", "test -e /run/probes/pre");
}

#[test]
fn lab_images() {
    if skip_without_kubectl() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    let pod = |name: &str, image: &str, more: &str| {
        create(
            &lab,
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{image}'{more}}}]}}}}"
            ),
        );
    };
    pod("who", "traefik/whoami:v1.10", "");
    pod("nginx", "docker.io/library/nginx:1.27-alpine", "");
    pod("star", "quay.io/cilium/starwars:v2.1@sha256:00", "");
    pod(
        "mock",
        "quay.io/cilium/json-mock:v1.3.8",
        ", env: [{name: PORT, value: '8080'}]",
    );
    pod(
        "ag",
        "registry.k8s.io/e2e-test-images/agnhost:2.45",
        ", args: [netexec, --http-port=8080]",
    );
    pod("pause", "registry.k8s.io/pause:3.10", "");
    pod("curl", "curlimages/curl", ", command: [sleep, '1000']");
    pod("own", "ghcr.io/me/app:2", "");
    let ready = [
        "pod/who",
        "pod/nginx",
        "pod/star",
        "pod/mock",
        "pod/ag",
        "pod/pause",
        "pod/curl",
    ];
    ok(kubectl(
        &lab,
        &[
            &["wait", "--for=condition=Ready", "--timeout=30s"],
            &ready[..],
        ]
        .concat(),
    ));
    let ip = |pod: &str| field(&lab, pod, ".status.podIP");
    let curl = |args: &str| {
        ok(kubectl(
            &lab,
            &[
                "exec",
                "curl",
                "--",
                "sh",
                "-c",
                &format!("curl -s --max-time 5 {args}"),
            ],
        ))
    };
    let who = curl(&ip("who"));
    assert!(
        who.starts_with("Hostname: who\nIP: 127.0.0.1\n")
            && who.contains(&format!("RemoteAddr: {}:", ip("curl"))),
        "{who}"
    );
    assert!(
        who.contains("\nGET / HTTP/1.1\nHost: ")
            && who.contains("\nUser-Agent: curl/")
            && who.contains("\nAccept: */*\n"),
        "{who}"
    );
    assert!(curl(&ip("nginx")).contains("Welcome to nginx!"));
    assert!(ok(kubectl(&lab, &["logs", "nginx"])).contains("\"GET / HTTP/1.1\" 200"));
    assert_eq!(
        curl(&format!("-XPOST {}/v1/request-landing", ip("star"))),
        "Ship landed\n"
    );
    assert!(curl(&format!("-XPUT {}/v1/exhaust-port", ip("star"))).contains("deathstar exploded"));
    assert!(curl(&format!("{}:8080/public", ip("mock"))).contains("public information"));
    assert_eq!(curl(&format!("{}:8080/hostname", ip("ag"))), "ag");
    wait_field(
        &lab,
        "own",
        ".status.containerStatuses[0].state.waiting.reason",
        "ImagePullBackOff",
    );
    let message = field(
        &lab,
        "own",
        ".status.containerStatuses[0].state.waiting.message",
    );
    assert!(
        message.contains("hypha lab image add ghcr.io/me/app="),
        "{message}"
    );
    assert!(
        lab.lab("image", &["add", "ghcr.io/me/app=sleep", "1000"])
            .ok()
    );
    assert!(
        lab.lab("image", &["list"])
            .stdout
            .contains("ghcr.io/me/app")
    );
    wait_field(&lab, "own", ".status.phase", "Running");
    assert!(
        lab.lab("image", &["remove", "ghcr.io/me/app"]).ok()
            && !lab.lab("image", &["remove", "ghcr.io/me/app"]).ok()
    );
}

#[test]
fn lab_deployments_names_and_restarts() {
    if skip_without_kubectl() {
        return;
    }
    let (lab, _dir) = lab_with(ONE_PLUGIN, &["--cluster-dns", "pod"]);
    ok(kubectl(
        &lab,
        &[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deploy/kube-dns",
            "--timeout=30s",
        ],
    ));
    ok(kubectl(
        &lab,
        &[
            "create",
            "deployment",
            "web",
            "--image=traefik/whoami",
            "--replicas=2",
        ],
    ));
    ok(kubectl(&lab, &["expose", "deployment", "web", "--port=80"]));
    ok(kubectl(
        &lab,
        &[
            "run",
            "client",
            "--image=nicolaka/netshoot",
            "--command",
            "--",
            "tail",
            "-f",
            "/dev/null",
        ],
    ));
    ok(kubectl(
        &lab,
        &["rollout", "status", "deploy/web", "--timeout=30s"],
    ));
    ok(kubectl(
        &lab,
        &[
            "wait",
            "--for=condition=Ready",
            "pod/client",
            "--timeout=30s",
        ],
    ));
    let ip = ok(kubectl(
        &lab,
        &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"],
    ));
    let names = || kubectl(&lab, &["exec", "client", "--", "getent", "ahostsv4", "web"]).stdout;
    wait_until("the service has a name", LIMIT, || {
        names().contains(&ip).then_some(())
    });
    let long = ok(kubectl(
        &lab,
        &[
            "exec",
            "client",
            "--",
            "getent",
            "ahostsv4",
            "web.default.svc.cluster.local",
        ],
    ));
    assert!(long.contains(&ip), "{long}");
    // This machine's program, or the lab's own.
    let looked_up = ok(kubectl(&lab, &["exec", "client", "--", "nslookup", "web"]));
    assert!(
        looked_up.contains("web.default.svc.cluster.local") && looked_up.contains(&ip),
        "{looked_up}"
    );
    assert_eq!(
        kubectl(
            &lab,
            &["exec", "client", "--", "getent", "hosts", "no-such-service"]
        )
        .code,
        2
    );
    // Objects outlive the lab only where that is asked for.
    assert!(lab.lab("down", &["--keep"]).ok());
    assert!(lab.up_again(&["--nodes", "1", "--no-agents"]).ok());
    assert_eq!(
        ok(kubectl(
            &lab,
            &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]
        )),
        ip
    );
    assert!(lab.lab("down", &[]).ok());
    assert!(lab.up_again(&["--nodes", "1", "--no-agents"]).ok());
    assert!(!kubectl(&lab, &["get", "service", "web"]).ok());
}
