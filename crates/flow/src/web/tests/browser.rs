//! Chromium without a window, by its DevTools protocol.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How long anything may take on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// What a page is shown on, in pixels.
const SIZE: (u32, u32) = (1440, 900);

/// Where the program is; said in one line if it is nowhere.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| {
            ["chromium", "chromium-browser", "google-chrome"].map(|name| dir.join(name))
        })
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no chromium; `cargo xtask setup` installs it where it can");
    }
    found
}

/// A page in a browser of its own.
pub struct Page {
    socket: WebSocketStream<TcpStream>,
    session: String,
    number: u64,
    /// Addresses that were asked for.
    pub requests: Vec<String>,
    /// What went wrong in the page.
    pub complaints: Vec<String>,
    _browser: Child,
    _profile: TempDir,
}

impl Page {
    /// Opens what is served at `at`; none where there is no browser.
    pub async fn open(at: SocketAddr) -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Command::new(program()?)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(browser.stderr.take().unwrap()).lines();
        let address = loop {
            let line = timeout(LONG, lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("the browser ended");
            if let Some((_, address)) = line.split_once("DevTools listening on ") {
                break address.trim().to_owned();
            }
        };
        // It blocks when nobody reads what it complains about.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let host = address.trim_start_matches("ws://").split('/').next();
        let stream = TcpStream::connect(host.unwrap()).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(&address, stream)
            .await
            .unwrap();
        let mut page = Self {
            socket,
            session: String::new(),
            number: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _browser: browser,
            _profile: profile,
        };
        page.begin(at).await;
        Some(page)
    }

    async fn begin(&mut self, at: SocketAddr) {
        let target = json!({"url": "about:blank"});
        let target = self.call("Target.createTarget", target).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", attach).await;
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
        self.size(SIZE.0, SIZE.1).await;
        self.dark(false).await;
        self.call("Page.navigate", json!({"url": format!("http://{at}/")}))
            .await;
    }

    /// The size of the window.
    pub async fn size(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// What the system wants: dark or light.
    pub async fn dark(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [
            {"name": "prefers-color-scheme", "value": scheme},
            // Pictures are of what stands still.
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// A command of the protocol, and what comes of it.
    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let text = command.to_string();
        self.socket.send(Message::text(text)).await.unwrap();
        loop {
            let message = timeout(LONG, self.socket.next()).await;
            let message = message.expect(method).unwrap().unwrap();
            let Ok(text) = message.to_text() else {
                continue;
            };
            let said: Value = serde_json::from_str(text).unwrap_or_default();
            if said["id"] == json!(self.number) {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            self.heed(&said);
        }
    }

    fn heed(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let parameters = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                self.requests.push(text(&parameters["request"]["url"]));
            }
            "Runtime.exceptionThrown" => self.complaints.push(parameters.to_string()),
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.complaints.push(text(&parameters["entry"]["text"]));
            }
            _ => {}
        }
    }

    /// What an expression of the page is.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Waits until an expression of the page holds.
    pub async fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression).await != json!(true) {
            if start.elapsed() > LONG {
                self.shot("failed").await;
                panic!("never: {expression}; complaints: {:?}", self.complaints);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses keys one after the other; names of more than one letter are those of the keyboard.
    pub async fn keys(&mut self, keys: &[&str]) {
        for key in keys {
            let mut event = json!({"type": "keyDown", "key": key});
            match *key {
                "Enter" => {
                    event["text"] = json!("\r");
                    event["windowsVirtualKeyCode"] = json!(13);
                }
                "Escape" => event["windowsVirtualKeyCode"] = json!(27),
                letter if letter.chars().count() == 1 => event["text"] = json!(letter),
                _ => {}
            }
            self.call("Input.dispatchKeyEvent", event.clone()).await;
            event["type"] = json!("keyUp");
            if let Some(event) = event.as_object_mut() {
                event.remove("text");
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Writes a text where the focus is.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Takes a picture: `target/ui/NAME.png`.
    pub async fn shot(&mut self, name: &str) {
        // What has just changed is drawn with the next frames.
        self.eval(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
        )
        .await;
        let picture = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ui");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), bytes).unwrap();
    }
}
