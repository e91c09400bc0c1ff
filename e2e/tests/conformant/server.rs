//! A real control plane on the loopback: etcd and Kubernetes' own API server, controllers and scheduler, with keys made for it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use apiserver::tls::{Authority, Identity, TlsOptions};
use serde_json::{Value, json};
use testkit::{Run, wait_until};

/// Names the folder with the programs.
const PROGRAMS_ENV: &str = "HYPHA_KUBERNETES";
/// How long the server may take to be ready.
const READY: Duration = Duration::from_secs(90);
/// Pods find the server at the first address of it.
const SERVICES: &str = "10.96.0.0/16";
/// Where it says it is: not a loopback address, which it refuses, and none of anybody.
const ADVERTISED: &str = "192.0.2.1";

/// A control plane; ends when dropped.
pub struct Server {
    dir: tempfile::TempDir,
    /// Who signs clients' certificates. The server's own is of another.
    pub clients: Authority,
    url: String,
    /// `1.36`, as 36.
    pub minor: u32,
    /// Ended last to first.
    children: Vec<Child>,
}

/// What runs beside the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Kubernetes' own controllers and scheduler.
    Own,
    /// Nothing.
    None,
}

fn programs() -> PathBuf {
    let dir = std::env::var_os(PROGRAMS_ENV);
    let dir = dir.unwrap_or_else(|| {
        panic!("{PROGRAMS_ENV} names no folder with kube-apiserver: `cargo xtask test-conformance`")
    });
    PathBuf::from(dir)
}

fn authority(dir: PathBuf) -> Authority {
    let options = TlsOptions {
        dir: Some(dir),
        names: Vec::new(),
    };
    Authority::open(&options).expect("an authority")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Server {
    /// Starts one and waits until it is ready.
    pub fn start(manager: Manager) -> Server {
        // Not in /run: nodes have one of their own.
        let dir = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let at = |name: &str| dir.path().join(name);
        let own = authority(at("server"));
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "10.96.0.1",
        ];
        let serving = own.server("kube-apiserver", names.map(str::to_owned).into());
        keep(&dir, "apiserver", &serving.expect("a certificate"));
        let mut server = Server {
            clients: authority(at("clients")),
            url: format!("https://127.0.0.1:{}", free_port()),
            minor: minor(),
            children: Vec::new(),
            dir,
        };
        let kubelets = server.identity("kube-apiserver-kubelet-client", Some("system:masters"));
        keep(&server.dir, "kubelets", &kubelets);
        let signing = rcgen::KeyPair::generate().expect("a key");
        server.write("sa.key", &signing.serialize_pem());
        server.write("sa.pub", &signing.public_key_pem());
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]});
        server.write("audit.json", &policy.to_string());
        server.start_servers();
        if manager == Manager::Own {
            server.start_managers();
        }
        server
    }

    fn start_servers(&mut self) {
        let etcd = format!("http://127.0.0.1:{}", free_port());
        let data = self.path("etcd");
        let listen = format!("--listen-client-urls={etcd}");
        let advertise = format!("--advertise-client-urls={etcd}");
        let peers = format!("--listen-peer-urls=http://127.0.0.1:{}", free_port());
        self.spawn(
            "etcd",
            &[&format!("--data-dir={data}"), &listen, &advertise, &peers],
        );
        let port = self.url.rsplit(':').next().unwrap_or_default().to_owned();
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name));
        let files = [
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "clients/ca.crt"),
            ("kubelet-client-certificate", "kubelets.crt"),
            ("kubelet-client-key", "kubelets.key"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("audit-policy-file", "audit.json"),
            ("audit-log-path", "audit.log"),
            ("cert-dir", "made"),
        ];
        let mut args: Vec<String> = files.iter().map(|(flag, name)| file(flag, name)).collect();
        args.extend([
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".into(),
            format!("--advertise-address={ADVERTISED}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
        ]);
        if self.minor < 21 {
            // As newer ones do it: tokens of pods are asked for, and nobody has to make secrets first; nodes and pods have both
            // families.
            args.push("--feature-gates=BoundServiceAccountTokenVolume=true".into());
            args.push("--feature-gates=IPv6DualStack=true".into());
        }
        self.spawn("kube-apiserver", &strs(&args));
        let config = self.kubeconfig("admin", Some("system:masters"));
        wait_until("the API server is ready", READY, || {
            let run = kubectl(&config, &["get", "--raw", "/readyz"]);
            (run.stdout == "ok").then_some(())
        });
    }

    fn start_managers(&mut self) {
        let of = |server: &Server, user: &str| {
            let config = server.kubeconfig(user, None).display().to_string();
            vec![
                format!("--kubeconfig={config}"),
                format!("--authentication-kubeconfig={config}"),
                format!("--authorization-kubeconfig={config}"),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={}", free_port()),
                "--leader-elect=false".into(),
            ]
        };
        let mut controllers = of(self, "system:kube-controller-manager");
        controllers.extend([
            format!("--root-ca-file={}", self.path("server/ca.crt")),
            format!("--service-account-private-key-file={}", self.path("sa.key")),
            "--use-service-account-credentials".into(),
        ]);
        let mut scheduler = of(self, "system:kube-scheduler");
        if self.minor < 21 {
            controllers.push("--feature-gates=IPv6DualStack=true".into());
        }
        if self.minor < 24 {
            // These had a port without TLS for everybody.
            controllers.push("--port=0".into());
            scheduler.push("--port=0".into());
        }
        self.spawn("kube-controller-manager", &strs(&controllers));
        self.spawn("kube-scheduler", &strs(&scheduler));
        let config = self.admin();
        wait_until("the default service account", READY, || {
            kubectl(&config, &["get", "serviceaccount", "default"])
                .ok()
                .then_some(())
        });
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let log = File::create(self.dir.path().join(format!("{program}.log"))).expect("a log");
        let path = programs().join(program);
        // It ends with the test, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&path)
            .args(args);
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let child = command.spawn();
        self.children
            .push(child.unwrap_or_else(|e| panic!("cannot start {}: {e}", path.display())));
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes a file beside the server's; its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// A certificate of a client.
    pub fn identity(&self, user: &str, group: Option<&str>) -> Identity {
        self.clients.client(user, group).expect("a certificate")
    }

    /// A kubeconfig of a client; it names files beside it.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> PathBuf {
        let name = user.replace(':', "-");
        keep(&self.dir, &name, &self.identity(user, group));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "real",
            "clusters": [{"name": "real", "cluster": {"server": self.url, "certificate-authority": "server/ca.crt"}}],
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": user}}],
            "users": [{"name": user, "user": {"client-certificate": format!("{name}.crt"), "client-key": format!("{name}.key")}}],
        });
        self.write(&format!("{name}.kubeconfig"), &config.to_string())
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// Every answered request.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("audit.log")).expect("the audit log");
        // The last line may be half written.
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("kube-apiserver.log"));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(8)..].join("\n"));
        }
    }
}

fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn keep(dir: &tempfile::TempDir, name: &str, identity: &Identity) {
    let path = dir.path().join(name);
    fs::write(path.with_extension("crt"), &identity.certificate).expect("a certificate");
    fs::write(path.with_extension("key"), &identity.key).expect("a key");
}

/// The minor version out of `Kubernetes v1.36.2`.
fn minor() -> u32 {
    let program = programs().join("kube-apiserver");
    let out = Command::new(&program).arg("--version").output();
    let out = out.unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let minor = text.split('.').nth(1).and_then(|m| m.parse().ok());
    minor.unwrap_or_else(|| panic!("no version: {text}"))
}

/// Runs the `kubectl` of this machine.
pub fn kubectl(config: &Path, args: &[&str]) -> Run {
    kubectl_of(Path::new("kubectl"), config, args)
}

/// Runs a `kubectl`.
pub fn kubectl_of(program: &Path, config: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(config).args(args);
    let output = command.stdin(Stdio::null()).output().expect("kubectl");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
