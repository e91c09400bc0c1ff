//! Settings from the API server, read before anything else starts; what was read last stands in while the server is away, or
//! slow. Once it answers, and the settings are other ones, the agent ends, so that its next start uses them.
use crate::{
    boot,
    kube::own::{self, Answer},
    state,
};
use k8s::{
    Client,
    config::{self, ConfigError},
};
use model::Node;
use runtime::settings::{Keyed, Loaded, Remote, Settings, load_all};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the API server may take if there is something that stands in for its answer: pods wait meanwhile.
const QUICK: Duration = Duration::from_millis(250);
/// How long it may take if there is nothing, or nobody waits.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// How often people are told what is waited for, in tries.
const REMIND: u32 = 10;

/// What the API server has for this node, or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The settings.
    pub remote: Remote,
    /// The API server said so now; what it said of this node by the same connection.
    pub fresh: Option<Known>,
}

/// What the API server said before the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was not asked: it has no settings for this agent.
    NotAsked,
    /// The settings are what it has now, and this is what it has of the node.
    Now(Known),
    /// Nothing: the settings are those of the last start. The flags of the command line to read them anew with.
    Before(Vec<(String, String)>),
}

/// What the API server has of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The node object.
    pub node: Option<Node>,
    /// The `CiliumNode`.
    pub said: Answer,
}

/// What the API server has for this node. Blocks until it is known, or was known before.
///
/// # Errors
/// The place of the API server makes no sense, or there is no such ConfigMap and never was.
pub fn fetch(settings: &Settings) -> Result<Fetched, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the async runtime: {error}"))?;
    runtime.block_on(ask(settings))
}

async fn ask(settings: &Settings) -> Result<Fetched, String> {
    let node = boot::node_name(settings).map_err(|error| error.to_string())?;
    let client = k8s::client(&boot::api_server(settings), boot::rate(settings))
        .await
        .map_err(|error| error.to_string())?;
    let path = path(settings);
    let saved = saved(&path);
    let limit = if saved.is_some() { QUICK } else { LIMIT };
    let mut tries = 0;
    loop {
        let error = match read(&client, settings, &node, limit).await {
            Ok(remote) => {
                // An agent that starts for the first time waits for these anyway, and looks again.
                let known = Known {
                    node: own::ask_node(&client, &node, QUICK).await,
                    said: own::ask(&client, &node, QUICK).await,
                };
                return Ok(Fetched {
                    remote,
                    fresh: Some(known),
                });
            }
            Err(error) => error,
        };
        if let Some(remote) = saved {
            eprintln!("hypha agent: {error}; the settings of the last start are used");
            return Ok(Fetched {
                remote,
                fresh: None,
            });
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

async fn read(
    client: &Client,
    settings: &Settings,
    node: &str,
    limit: Duration,
) -> Result<Remote, ConfigError> {
    let (namespace, name) = (&settings.k8s_namespace, &settings.config_map);
    let question = config::of_node(client, namespace, name, node);
    tokio::time::timeout(limit, question)
        .await
        .unwrap_or_else(|_| Err(ConfigError::Failed("no answer in time".to_owned())))
}

/// Ends when the API server has other settings than those `used`. Never, if they are the same, or are not those of the last start.
pub async fn changed(heard: Heard, used: Settings, client: Client) -> String {
    while let Heard::Before(flags) = &heard {
        if let Ok(node) = boot::node_name(&used)
            && let Ok(remote) = read(&client, &used, &node, LIMIT).await
        {
            match load_all::<Settings>(flags, std::env::vars(), &remote) {
                Ok(loaded) => {
                    remember(&used, &remote);
                    match difference(&used, &loaded) {
                        keys if keys.is_empty() => break,
                        keys => {
                            return format!(
                                "the settings have changed since the last start ({}); the next start uses them",
                                keys.join(", ")
                            );
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the settings of the API server make no sense; those of the last start stay");
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    std::future::pending().await
}

fn difference(used: &Settings, loaded: &Loaded) -> Vec<&'static str> {
    let names = Settings::keys().iter().map(|key| key.name);
    names
        .filter(|name| used.value(name) != loaded.settings.value(name))
        .collect()
}

fn path(settings: &Settings) -> PathBuf {
    Path::new(&settings.state_dir)
        .join(boot::STATE)
        .join("config.json")
}

fn saved(path: &Path) -> Option<Remote> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Keeps settings that make sense for a start without the API server.
pub fn remember(settings: &Settings, remote: &Remote) {
    let path = path(settings);
    if let Err(error) = save(&path, remote) {
        eprintln!("hypha agent: {} cannot be written: {error}", path.display());
    }
}

fn save(path: &Path, remote: &Remote) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        state::private_dir(dir).map_err(io::Error::other)?;
    }
    state::replace(path, &serde_json::to_vec(remote)?)
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
        let expected = Fetched {
            remote,
            fresh: None,
        };
        assert_eq!(fetch(&settings).unwrap(), expected);
        // One that takes the connection and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Settings {
            k8s_api_server: format!("http://{}", silent.local_addr().unwrap()),
            ..settings
        };
        let began = std::time::Instant::now();
        assert_eq!(fetch(&settings).unwrap(), expected);
        assert!(began.elapsed() < Duration::from_secs(2), "pods wait");
    }

    #[tokio::test]
    async fn an_agent_with_old_settings_ends_when_it_hears_of_new_ones() {
        let server = apiserver::ApiServer::open(apiserver::ServerOptions::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let used = Settings {
            k8s_api_server: format!("http://{}", listener.local_addr().unwrap()),
            k8s_namespace: "default".to_owned(),
            ..settings(dir.path())
        };
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        let client = k8s::client(&boot::api_server(&used), k8s::Rate::UNLIMITED)
            .await
            .unwrap();
        let flags = |used: &Settings| -> Vec<(String, String)> {
            let keys = [
                "k8s-api-server",
                "k8s-namespace",
                "state-dir",
                "node-name",
                "config-map",
            ];
            keys.map(|key| (key.to_owned(), used.value(key).unwrap()))
                .into()
        };
        let maps = k8s::write::Objects::core(&client, "ConfigMap", "configmaps", Some("default"));
        let map =
            serde_json::json!({"metadata": {"name": "cilium-config"}, "data": {"debug": "true"}});
        maps.create(map).await.unwrap();
        let watch =
            |used: &Settings| changed(Heard::Before(flags(used)), used.clone(), client.clone());
        assert!(watch(&used).await.contains("(debug)"));
        let mut same = used.clone();
        same.assign("debug", "true", "test").unwrap();
        let never = tokio::time::timeout(Duration::from_millis(300), watch(&same)).await;
        assert!(never.is_err());
        server.shutdown();
    }
}
