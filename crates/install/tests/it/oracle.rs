//! The same templates by Go's engine and Helm's function library: where Go is at hand, what comes out must be the same.
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hypha_install::template::Templates;
use hypha_install::{Request, chart, dot};
use serde_json::{Value, json};

/// Snippets of templates, and what they print for `{"Values": …}` of [`values`].
const SNIPPETS: &[(&str, &str)] = &[
    ("a {{ .Values.text }} b", "a word b"),
    ("a \n{{- .Values.text -}}\n b", "awordb"),
    ("{{/* nothing }} */}}x{{- /* more */ -}} y", "xy"),
    (
        "{{ if .Values.off }}a{{ else if .Values.on }}b{{ else }}c{{ end }}",
        "b",
    ),
    (
        "{{ if and .Values.on (not .Values.off) (or .Values.empty .Values.text) }}yes{{ end }}",
        "yes",
    ),
    (
        "{{ with .Values.map }}{{ .a }}{{ $.Values.text }}{{ else }}no{{ end }}",
        "1word",
    ),
    (
        "{{ with .Values.empty }}{{ . }}{{ else }}{{ .Values.text }}{{ end }}",
        "word",
    ),
    ("{{ with $x := .Values.text }}{{ $x }}{{ end }}", "word"),
    ("{{ range .Values.list }}[{{ . }}]{{ end }}", "[x][y]"),
    (
        "{{ range $i, $v := .Values.list }}{{ $i }}={{ $v }} {{ end }}",
        "0=x 1=y ",
    ),
    (
        "{{ range $k, $v := .Values.map }}{{ $k }}={{ $v }} {{ end }}",
        "a=1 b=two ",
    ),
    (
        "{{ range .Values.none }}a{{ else }}nothing{{ end }}",
        "nothing",
    ),
    (
        "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ end }}{{ $x }}",
        "2",
    ),
    (
        "{{ define \"n\" }}<{{ . }}>{{ end }}{{ template \"n\" .Values.text }}{{ include \"n\" 7 | quote }}",
        "<word>\"<7>\"",
    ),
    ("{{ (dict \"k\" (list 1 2)).k | toJson }}", "[1,2]"),
    (
        "{{ .Values.absent | default \"d\" }} {{ .Values.text | default \"d\" }}",
        "d word",
    ),
    ("{{ quote .Values.text 1 true }}", "\"word\" \"1\" \"true\""),
    (
        "{{ printf \"%s-%d-%v%%\" .Values.text (int .Values.number) true }}",
        "word-7-true%",
    ),
    (
        "{{ eq .Values.text \"a\" \"word\" }} {{ ne (int .Values.number) 7 }}",
        "true false",
    ),
    (
        "a:{{ toYaml .Values.map | nindent 2 }}",
        "a:\n  a: 1\n  b: two",
    ),
    (
        "{{ list \"a\" \"b\" | join \",\" }} {{ splitList \".\" \"a.b\" | toJson }}",
        "a,b [\"a\",\"b\"]",
    ),
    (
        "{{ hasKey .Values.map \"a\" }} {{ get .Values.map \"zz\" | quote }}",
        "true \"\"",
    ),
    (
        "{{ ternary \"a\" \"b\" .Values.on }} {{ kindIs \"map\" .Values.map }} {{ kindIs \"slice\" .Values.list }}",
        "a true true",
    ),
    (
        "{{ trunc 2 .Values.text }} {{ trimSuffix \"d\" .Values.text }} {{ replace \"o\" \"0\" .Values.text }}",
        "wo wor w0rd",
    ),
    (
        "{{ (merge (dict \"a\" 1) (dict \"a\" 2 \"b\" 3)) | toJson }}",
        "{\"a\":1,\"b\":3}",
    ),
    (
        "{{ dir \"/run/cilium/cgroupv2\" }} {{ dir \"/a\" }}",
        "/run/cilium /",
    ),
    ("{{ \"abc\" | sha256sum | trunc 8 }}", "ba7816bf"),
    (
        "{{ `raw \"text\"` }} {{ \"tab\\tq\\\"\" }}",
        "raw \"text\" tab\tq\"",
    ),
    (
        "{{ include \"f\" . }}{{- define \"f\" -}} {{ int64 .Values.big }} {{- end -}}",
        "1000000",
    ),
    (
        "{{ if eq (float64 (int64 .Values.ratio)) .Values.ratio }}whole{{ else }}{{ .Values.ratio }}{{ end }}",
        "0.0025",
    ),
    (
        "{{ range \"- {a: 1}\\n- {a: x}\" | fromYamlArray }}{{ .a }}{{ end }}",
        "1x",
    ),
    (
        "{{ append (list 1) 2 | toJson }}{{ list | toJson }}",
        "[1,2][]",
    ),
    (
        "{{ range $p := list\n  \"a\"\n  \"b\"\n}}{{ $p }}{{ end }}",
        "ab",
    ),
    (
        "{{ semverCompare \">=1.22-0\" \"v1.22.0\" }} {{ semverCompare \">=1.22-0\" \"v1.9.11-gke.1\" }}",
        "true false",
    ),
];

fn values() -> Value {
    json!({"Values": {
        "text": "word", "empty": "", "on": true, "off": false, "number": 7.0, "big": 1_000_000.0, "ratio": 0.0025,
        "list": ["x", "y"], "none": [], "map": {"a": 1, "b": "two"},
    }})
}

fn printed(path: &str, text: &str, dot: &Value) -> String {
    let mut templates = Templates::default();
    templates.add(path, text).unwrap();
    templates
        .render(path, dot)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn the_language_is_the_one_that_charts_are_written_in() {
    for (text, wanted) in SNIPPETS {
        assert_eq!(printed("x", text, &values()), *wanted, "{text}");
    }
}

#[test]
fn mistakes_in_templates_have_a_place() {
    for (text, said) in [
        (
            "a\n\n{{ .Values.text.more }}",
            "x:3: .Values.text is string, and has no field more",
        ),
        (
            "{{ .Values.absent.more }}",
            "x:1: .Values.absent is invalid, and has no field more",
        ),
        ("{{ if }}{{ end }}", "x:1: a value is missing"),
        ("{{ if true }}\n", "x:1: what begins here has no end"),
        ("{{ end }}", "x:1: an end or else without a beginning"),
        (
            "\n{{ nothing 1 }}",
            "x:2: nothing: no such function, or not for these arguments: int64",
        ),
        (
            "{{ .Values.map }}",
            "x:1: a map cannot be printed; toYaml and join can",
        ),
        (
            "{{ eq .Values.text 1 }}",
            "x:1: eq: a string is not comparable to a int64",
        ),
        ("{{ $x }}", "x:1: $x is not declared"),
        ("{{ $x = 1 }}", "x:1: $x is not declared"),
        ("{{ include \"no\" . }}", "x:1: there is no template \"no\""),
        (
            "{{ define \"a\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}",
            "x:1: templates include each other without end",
        ),
        ("{{ fail \"so\" }}", "x:1: fail: so"),
        (
            "{{ .Values.absent | required \"give it\" }}",
            "x:1: required: give it",
        ),
        ("{{ \"a", "x:1: an action has no end }}"),
        ("{{ a ! b }}", "x:1: '!' has no meaning here"),
        (
            "{{ semverCompare \"~1\" \"v1.2.3\" }}",
            "x:1: semverCompare: ~1 is no version as >=1.21-0",
        ),
        ("{{ printf \"%d\" \"a\" }}", "x:1: printf: %d with a string"),
        (
            "{{ .Values.text 1 }}",
            "x:1: only a function takes arguments",
        ),
    ] {
        let mut templates = Templates::default();
        let added = templates.add("x", text);
        let error = added
            .and_then(|()| templates.render("x", &values()).map(drop))
            .unwrap_err();
        assert_eq!(error.to_string(), said, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_template_makes_it_fall(text in "(\\{\\{|\\}\\}|-| |if|end|range|\\$x|:=|\\.a|\"|\\(|\\)|\\||b|1){0,20}") {
        let mut templates = Templates::default();
        if templates.add("x", &text).is_ok() {
            let _ = templates.render("x", &json!({"a": 1}));
        }
    }
}

/// The program that renders with Go; none where Go or its packages are missing.
fn renderer(dir: &Path) -> Option<PathBuf> {
    let go = std::env::var("HYPHA_GO").unwrap_or_else(|_| "go".to_owned());
    let gopath = std::env::var("GOPATH").unwrap_or_else(|_| "/usr/share/gocode".to_owned());
    let program = dir.join("renderer");
    let built = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/main.go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", gopath)
        .env("CGO_ENABLED", "0")
        .output();
    match built {
        Ok(output) if output.status.success() => Some(program),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!(
                "skipped: Go cannot build the renderer: {}",
                text.lines().next().unwrap_or_default()
            );
            None
        }
        Err(_) => {
            eprintln!(
                "skipped: there is no Go (golang-go, golang-github-masterminds-sprig-dev, golang-k8s-sigs-yaml-dev; HYPHA_GO and GOPATH say where)"
            );
            None
        }
    }
}

fn by_go(program: &Path, dir: &Path, dots: &[Value]) -> Vec<BTreeMap<String, String>> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let request = json!({"dir": dir, "dots": dots}).to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(request.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn documents(text: &str) -> Vec<Value> {
    let parts = format!("\n{text}")
        .split("\n---")
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let parsed = parts.iter().filter(|part| !part.trim().is_empty());
    let parsed = parsed.map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    parsed.filter(|value| !value.is_null()).collect()
}

#[test]
fn go_prints_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = renderer(dir.path()) else {
        return;
    };
    for (number, (text, wanted)) in SNIPPETS.iter().enumerate() {
        let chart = dir.path().join(number.to_string());
        std::fs::create_dir_all(chart.join("templates")).unwrap();
        std::fs::write(chart.join("templates/x"), text).unwrap();
        let said = by_go(&program, &chart, &[values()]);
        assert_eq!(said[0]["templates/x"], *wanted, "{text}");
    }
}

#[test]
fn go_renders_the_same_objects() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = renderer(dir.path()) else {
        return;
    };
    let sets = [
        json!({}),
        json!({"ipam": {"mode": "kubernetes"}, "operator": {"replicas": 1}, "kubeProxyReplacement": true}),
        json!({"routingMode": "native", "autoDirectNodeRoutes": true, "ipv4NativeRoutingCIDR": "172.20.0.0/16", "devices": ["eth0", "ens+"],
            "ipv6": {"enabled": true}, "MTU": 1400, "tunnelPort": 4789, "bpf": {"ctTcpMax": 1_000_000, "datapathMode": "netkit", "vlanBypass": [1, 2]},
            "ipam": {"operator": {"clusterPoolIPv4PodCIDRList": ["172.20.0.0/16", "172.21.0.0/16"]}}}),
        json!({"ipam": {"mode": "multi-pool", "operator": {"autoCreateCiliumPodIPPools": {"default": {"ipv4": {"cidrs": ["10.10.0.0/16"], "maskSize": 27}}}}}}),
        json!({"image": {"override": "a/b:c"}, "imagePullSecrets": [{"name": "s"}], "extraConfig": {"a": 1, "enable-tcx": false, "r": 0.5},
            "extraArgs": ["--debug"], "extraEnv": [{"name": "A", "value": "true"}], "podAnnotations": {"x": "y: z"}, "commonLabels": {"t": "1"},
            "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}, "affinity": {"nodeAffinity": {"x": [{"k": ["v"]}]}}, "rollOutCiliumPods": true,
            "k8sServiceHost": "192.0.2.1", "k8sServicePort": 6443, "securityContext": {"privileged": true}, "logOptions": {"level": "debug", "format": "json"},
            "operator": {"rollOutPods": true, "podDisruptionBudget": {"enabled": true, "minAvailable": 1}, "extraVolumes": [{"name": "v", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}], "prometheus": {"metricsService": true}},
            "prometheus": {"enabled": true, "serviceMonitor": {"enabled": true, "labels": {"release": "p"}}}}),
    ];
    let dots: Vec<Value> = sets
        .iter()
        .map(|values| {
            let request = Request {
                values: values.clone(),
                ..Request::default()
            };
            dot(&request).unwrap()
        })
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/hypha");
    let said = by_go(&program, &root, &dots);
    let mut templates = Templates::default();
    for (path, text) in chart::FILES
        .iter()
        .filter(|(path, _)| path.starts_with("templates/"))
    {
        templates.add(path, text).unwrap();
    }
    for (dot, said) in dots.iter().zip(said) {
        for (path, theirs) in said {
            // Certificates differ each time.
            if path.ends_with("/certificates.yaml") {
                continue;
            }
            let ours = templates.render(&path, dot).unwrap();
            if path == chart::NOTES {
                assert_eq!(ours, theirs);
            } else {
                assert_eq!(documents(&ours), documents(&theirs), "{path}");
            }
        }
    }
}
