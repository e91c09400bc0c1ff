//! `hypha lab logs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::{Lab, pod_name};
use crate::kubelet::logs::{Wanted, previous, select};
use crate::state::{AGENT, COMPONENTS};

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Whose output.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// A pod (NAME or NAMESPACE/NAME), a node (its agent), `router`, `api-server`, or `supervisor`.
    target: String,
    /// Which container of the pod (default: its first).
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as more comes.
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn logs(lab: &Lab, args: &LogsArgs) -> anyhow::Result<()> {
    let path = path(lab, args)?;
    if path.starts_with(lab.dir.file("logs")) {
        return container(&path, args);
    }
    let mut file = File::open(&path)
        .with_context(|| format!("{:?} wrote nothing yet ({})", args.target, path.display()))?;
    let mut out = io::stdout();
    io::copy(&mut file, &mut out).context("cannot print")?;
    while args.follow && path.exists() {
        std::thread::sleep(LOOK);
        io::copy(&mut file, &mut out).context("cannot print")?;
    }
    Ok(())
}

/// The output of a container: of the run before, and of the present one.
fn container(path: &Path, args: &LogsArgs) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let mut print = |data: &[u8]| {
        out.write_all(&select(data, &Wanted::default()))
            .and_then(|()| out.flush())
    };
    print(&fs::read(previous(path)).unwrap_or_default()).context("cannot print")?;
    let mut at = 0;
    loop {
        let data = fs::read(path)
            .with_context(|| format!("{:?} wrote nothing yet ({})", args.target, path.display()))?;
        if data.len() < at {
            // A new run began.
            at = 0;
        }
        let end = data.iter().rposition(|b| *b == b'\n').map_or(at, |i| i + 1);
        print(data.get(at..end).unwrap_or_default()).context("cannot print")?;
        at = end;
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        if !path.exists() {
            return Ok(());
        }
    }
}

fn path(lab: &Lab, args: &LogsArgs) -> anyhow::Result<PathBuf> {
    match args.target.as_str() {
        "supervisor" => return Ok(lab.dir.file("supervisor.log")),
        "router" => return Ok(lab.dir.file("router.log")),
        "api-server" => return Ok(lab.dir.file("api-server.log")),
        node if lab.state.nodes.iter().any(|n| n.name == node) => {
            let found = lab.dir.container(AGENT, Some(node))?;
            let (pod, container) = found.with_context(|| {
                format!("no agent runs on {node}; `kubectl -n {COMPONENTS} logs` shows those of pods that are there")
            })?;
            return Ok(lab
                .dir
                .container_log(&pod.namespace, &pod.name, &container.name));
        }
        _ => {}
    }
    let (namespace, name) = pod_name(&args.target);
    if let Some(container) = &args.container {
        return Ok(lab.dir.container_log(namespace, name, container));
    }
    if let Some(container) = lab
        .dir
        .read_pod(namespace, name)?
        .and_then(|p| p.containers.into_iter().next())
    {
        return Ok(lab.dir.container_log(namespace, name, &container.name));
    }
    // A pod that has ended: its files are still there.
    let prefix = format!("{namespace}_{name}_");
    let entries = std::fs::read_dir(lab.dir.file("logs"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    let ours = |p: &PathBuf| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
    };
    match entries.filter(ours).min() {
        Some(path) => Ok(path),
        None => bail!("no pod {:?} has run here (namespace {namespace:?})", name),
    }
}
