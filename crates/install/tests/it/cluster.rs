//! An API server in this process, and kubectl against it.
use std::path::PathBuf;
use std::process::Command;

use apiserver::{ApiServer, ServerOptions};
use hypha_install::apply::{ApplyError, Release};
use kube::{Client, Config};
use serde_json::Value;
use tokio::net::TcpListener;

/// The API server.
pub struct Cluster {
    server: ApiServer,
    url: String,
    pub client: Client,
    /// What was reported, one line per step.
    pub steps: Vec<String>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

/// What kubectl printed; none where there is no kubectl.
pub fn kubectl(url: &str, words: &str) -> Option<String> {
    let tools = std::env::var_os("HYPHA_TOOLS").map(PathBuf::from);
    let tools = tools
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/hypha/tools")))?;
    let program = tools.join("kubectl-new/kubectl");
    if !program.exists() {
        eprintln!("skipped: there is no {}", program.display());
        return None;
    }
    let output = Command::new(program)
        .args(["--kubeconfig=/dev/null", "-s", url])
        .args(words.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "kubectl {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text.trim().to_owned())
}

impl Cluster {
    pub async fn start() -> Self {
        let server = ApiServer::open(ServerOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        Self {
            server,
            url,
            client,
            steps: Vec::new(),
        }
    }

    /// kubectl on a thread of its own, so that the server can answer it.
    pub async fn kubectl(&self, words: &str) -> Option<String> {
        let (url, words) = (self.url.clone(), words.to_owned());
        tokio::task::spawn_blocking(move || kubectl(&url, &words))
            .await
            .unwrap()
    }

    /// Installs or upgrades, which is the same here; the revision.
    pub async fn bring(&mut self, values: Value) -> Result<u32, ApplyError> {
        self.bring_with(values, false).await
    }

    pub async fn bring_with(&mut self, values: Value, force: bool) -> Result<u32, ApplyError> {
        let mut steps = Vec::new();
        let mut report = |step: &str| steps.push(step.to_owned());
        let mut release = release(&self.client, force, &mut report);
        let outcome = async {
            let history = release.history().await?;
            let plan = release.plan(history, values).await?;
            let revision = plan.revision();
            release.carry_out(plan).await.map(|()| revision)
        };
        let outcome = outcome.await;
        self.steps = steps;
        outcome
    }
}

pub fn release<'a>(client: &Client, force: bool, report: &'a mut dyn FnMut(&str)) -> Release<'a> {
    Release {
        client: client.clone(),
        name: "cilium",
        namespace: "kube-system",
        force,
        report,
    }
}
