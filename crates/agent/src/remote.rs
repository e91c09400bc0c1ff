//! Settings from the API server, read before anything else starts; what was read last stands in while the server is away.
use crate::{boot, state};
use k8s::config::{self, ConfigError};
use runtime::settings::{Remote, Settings};
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the API server may take if there is something that stands in for its answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two tries if there is nothing.
const PAUSE: Duration = Duration::from_millis(500);
/// How often people are told what is waited for, in tries.
const REMIND: u32 = 10;

/// What the API server has for this node. Blocks until it is known, or was known before.
///
/// # Errors
/// The place of the API server makes no sense, or there is no such ConfigMap and never was.
pub fn fetch(settings: &Settings) -> Result<Remote, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the async runtime: {error}"))?;
    runtime.block_on(ask(settings))
}

async fn ask(settings: &Settings) -> Result<Remote, String> {
    let node = boot::node_name(settings).map_err(|error| error.to_string())?;
    let client = k8s::client(&boot::api_server(settings))
        .await
        .map_err(|error| error.to_string())?;
    let (namespace, name) = (&settings.k8s_namespace, &settings.config_map);
    let path = path(settings);
    let mut tries = 0;
    loop {
        let question = config::of_node(&client, namespace, name, &node);
        let answer = tokio::time::timeout(LIMIT, question)
            .await
            .unwrap_or_else(|_| Err(ConfigError::Failed("no answer in time".to_owned())));
        let error = match answer {
            Ok(remote) => {
                if let Err(error) = save(&path, &remote) {
                    eprintln!("hypha agent: {} cannot be written: {error}", path.display());
                }
                return Ok(remote);
            }
            Err(error) => error,
        };
        if let Some(saved) = saved(&path) {
            eprintln!("hypha agent: {error}; the settings of the last start are used");
            return Ok(saved);
        }
        if matches!(error, ConfigError::Missing(_)) {
            return Err(format!("{error} (setting config-map)"));
        }
        if tries % REMIND == 0 {
            eprintln!("hypha agent: waiting: {error}");
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn path(settings: &Settings) -> PathBuf {
    Path::new(&settings.state_dir)
        .join(boot::STATE)
        .join("config.json")
}

fn saved(path: &Path) -> Option<Remote> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn save(path: &Path, remote: &Remote) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        state::private_dir(dir).map_err(io::Error::other)?;
    }
    let temporary = path.with_extension("json.tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(remote)?)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings {
            // Nobody listens on the port of discard.
            k8s_api_server: "http://127.0.0.1:9".to_owned(),
            config_map: "cilium-config".to_owned(),
            state_dir: dir.display().to_string(),
            node_name: "n".to_owned(),
            ..Settings::default()
        }
    }

    #[test]
    fn the_last_settings_stand_in_for_an_api_server_that_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let layer = runtime::settings::Layer {
            place: "ConfigMap kube-system/cilium-config".to_owned(),
            values: [("debug".to_owned(), "true".to_owned())].into(),
        };
        let remote = Remote {
            config_map: Some(layer),
            ..Remote::default()
        };
        save(&path(&settings), &remote).unwrap();
        assert_eq!(fetch(&settings).unwrap(), remote);
    }
}
