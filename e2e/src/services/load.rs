//! Clients that ask one service all the time.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::cluster::Cluster;

const LOAD: &str = include_str!("load.py");

/// A client at work.
#[derive(Debug)]
pub struct Client {
    name: String,
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

/// What a client did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests by a connection each.
    pub new: u64,
    /// Requests by connections that were kept.
    pub kept: u64,
    /// How often a kept connection was closed by its server and the request worked by another one.
    pub reopened: u64,
    /// Requests by datagrams.
    pub datagrams: u64,
    /// Datagrams that no answer came to, not even a late one.
    pub lost: u64,
    /// Host names of those who answered.
    pub backends: Vec<String>,
    /// When and how a request failed.
    pub failures: Vec<String>,
    /// When something took so long that it may have been sent again, and how.
    pub slow: Vec<String>,
}

impl Client {
    /// Starts on a pod, a node or the router.
    ///
    /// # Panics
    /// If it cannot start.
    #[must_use]
    #[track_caller]
    pub fn start(cluster: &Cluster, name: &str, service: SocketAddr) -> Client {
        let target = json!([service.ip(), service.port()]).to_string();
        let mut command = cluster
            .lab
            .exec_command(name, &["python3", "-c", LOAD, &target]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a client");
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        assert_eq!(line.trim(), "begun", "{name} does not begin");
        Client {
            name: name.to_owned(),
            process,
            output,
        }
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it does not say what it did.
    #[must_use]
    #[track_caller]
    pub fn stop(mut self) -> Report {
        drop(self.process.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("its report");
        self.process.wait().expect("its end");
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{}: no report ({e}): {text}", self.name));
        let count = |field: &str| value[field].as_u64().unwrap_or_default();
        let texts = |field: &str| -> Vec<String> {
            let list = value[field].as_array().into_iter().flatten();
            list.filter_map(|item| Some(item.as_str()?.to_owned()))
                .collect()
        };
        let named = |list: Vec<String>| -> Vec<String> {
            let line = |text| format!("{}: {text}", self.name);
            list.into_iter().map(line).collect()
        };
        Report {
            new: count("new"),
            kept: count("kept"),
            reopened: count("reopened"),
            datagrams: count("datagrams"),
            lost: count("lost"),
            backends: texts("backends"),
            failures: named(texts("failures")),
            slow: named(texts("slow")),
        }
    }
}
