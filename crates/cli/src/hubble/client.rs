//! The observer that is asked: an agent by its socket, a relay by its port, or one that is reached through the API server.
use std::io;
use std::path::Path;
use std::time::Duration;

use ::flow::relay::connect::{self, Address, Tls};
use anyhow::{Context, Result, anyhow};
use api::hubble::observer::observer_client::ObserverClient;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::forward;
use super::settings::Settings;
use crate::error::Usage;

/// Socket of a node's own agent.
pub const LOCAL: &str = "/var/run/cilium/hubble.sock";

/// Flags that choose the server. Each may also stand in the environment and in the configuration file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerFlags {
    /// The server, as HOST:PORT, tls://HOST:PORT or unix:///PATH; by default localhost:4245, on a node its agent
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub server: Option<String>,
    /// How long to try to connect
    #[arg(long, value_name = "TIME", global = true)]
    pub timeout: Option<String>,
    /// How long to wait for an answer that is not a stream
    #[arg(long, value_name = "TIME", global = true)]
    pub request_timeout: Option<String>,
    /// Talk TLS
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", global = true)]
    pub tls: Option<String>,
    /// Believe whoever answers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", global = true)]
    pub tls_allow_insecure: Option<String>,
    /// The name in the server's certificate
    #[arg(long, value_name = "NAME", global = true)]
    pub tls_server_name: Option<String>,
    /// Authorities that may vouch for the server
    #[arg(long, value_name = "FILES", global = true)]
    pub tls_ca_cert_files: Vec<String>,
    /// Our own certificate
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_client_cert_file: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE", global = true)]
    pub tls_client_key_file: Option<String>,
    /// User, for servers that ask for one
    #[arg(long, value_name = "NAME", global = true)]
    pub basic_auth_username: Option<String>,
    /// Password
    #[arg(long, value_name = "PASSWORD", global = true)]
    pub basic_auth_password: Option<String>,
    /// Reach the cluster's relay through the API server
    #[arg(short = 'P', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", global = true)]
    pub port_forward: Option<String>,
    /// Port of this machine for that
    #[arg(long, value_name = "PORT", global = true)]
    pub port_forward_port: Option<String>,
    /// Kubeconfig for that; by default $KUBECONFIG, the lab's, ~/.kube/config
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<String>,
    /// Its context
    #[arg(long, value_name = "CONTEXT", global = true)]
    pub kube_context: Option<String>,
    /// Namespace of the relay
    #[arg(long, value_name = "NAMESPACE", global = true)]
    pub kube_namespace: Option<String>,
    /// The configuration file
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<String>,
    /// Say more
    #[arg(short = 'D', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", global = true)]
    pub debug: Option<String>,
}

impl ServerFlags {
    /// The settings with these flags above them.
    ///
    /// # Errors
    /// The configuration file cannot be read, or a value is none.
    pub fn settings(&self) -> Result<Settings> {
        let files = (!self.tls_ca_cert_files.is_empty()).then(|| self.tls_ca_cert_files.join(","));
        let given = [
            ("server", &self.server),
            ("timeout", &self.timeout),
            ("request-timeout", &self.request_timeout),
            ("tls", &self.tls),
            ("tls-allow-insecure", &self.tls_allow_insecure),
            ("tls-server-name", &self.tls_server_name),
            ("tls-ca-cert-files", &files),
            ("tls-client-cert-file", &self.tls_client_cert_file),
            ("tls-client-key-file", &self.tls_client_key_file),
            ("basic-auth-username", &self.basic_auth_username),
            ("basic-auth-password", &self.basic_auth_password),
            ("port-forward", &self.port_forward),
            ("port-forward-port", &self.port_forward_port),
            ("kubeconfig", &self.kubeconfig),
            ("kube-context", &self.kube_context),
            ("kube-namespace", &self.kube_namespace),
            ("config", &self.config),
            ("debug", &self.debug),
        ];
        let flags = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect();
        Settings::load(&flags, &|name| std::env::var(name).ok())
    }
}

/// Adds user and password, where there are some.
#[derive(Clone, Debug)]
pub struct Auth(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What requests go through.
pub type Service = InterceptedService<Channel, Auth>;

/// A server that can be asked.
pub struct Server {
    /// What it is called in messages.
    pub name: String,
    service: Service,
    limit: Duration,
}

/// Connects to the server that the settings mean.
///
/// # Errors
/// The settings do not go together, or nobody answers.
pub async fn connect(settings: &Settings) -> Result<Server> {
    let limit = settings.span("timeout");
    let (text, tls) = target(settings, Path::new(LOCAL).exists())?;
    let (name, channel) = if settings.on("port-forward") {
        let relay = forward::Relay::find(settings, forward::FLOWS).await?;
        let name = format!("{}/{}", relay.namespace, relay.pod);
        let stream = relay.open().await?;
        let stream = match &tls {
            Some(tls) => connect::wrapped(tls, "hubble-relay", stream).await?,
            None => stream,
        };
        (name, connect::over(stream, false).await)
    } else {
        let address: Address = text
            .parse()
            .map_err(|wrong| Usage(format!("`{text}` is no server: {wrong}")))?;
        let channel = connect::channel(&address, tls.as_ref(), limit, false).await;
        (text.clone(), channel)
    };
    let channel = channel.map_err(|error| {
        let text = error.to_string();
        let hint = match &error {
            connect::ConnectError::Io(cause)
                if cause.kind() == io::ErrorKind::ConnectionRefused =>
            {
                "; `hypha hubble port-forward` brings the cluster's relay there, -P asks it at once"
            }
            _ => "",
        };
        anyhow!("cannot connect to {name}: {text}{hint}")
    })?;
    Ok(Server {
        name,
        service: InterceptedService::new(channel, Auth(authorization(settings)?)),
        limit: settings.span("request-timeout"),
    })
}

/// The server's address without its prefix, and what TLS is to know. On a node that is its agent, if nobody says otherwise.
fn target(settings: &Settings, local: bool) -> Result<(String, Option<Tls>)> {
    let said = settings.said("server").filter(|text| !text.is_empty());
    let text = match said {
        None if local && !settings.on("port-forward") => format!("unix://{LOCAL}"),
        None => settings.text("server").to_owned(),
        Some(text) => text.to_owned(),
    };
    let plain = text.strip_prefix("tls://").map(str::to_owned);
    if plain.is_none() && !settings.on("tls") {
        return Ok((text, None));
    }
    let text_of = |name: &str| Some(settings.text(name)).filter(|text| !text.is_empty());
    let identity = match (
        text_of("tls-client-cert-file"),
        text_of("tls-client-key-file"),
    ) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => {
            let text = "--tls-client-cert-file and --tls-client-key-file belong together";
            return Err(Usage(text.to_owned()).into());
        }
    };
    let tls = Tls {
        authorities: settings.files("tls-ca-cert-files"),
        identity,
        server_name: text_of("tls-server-name").map(str::to_owned),
        insecure: settings.on("tls-allow-insecure"),
    };
    Ok((plain.unwrap_or(text), Some(tls)))
}

fn authorization(settings: &Settings) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>> {
    let (user, password) = (
        settings.text("basic-auth-username"),
        settings.text("basic-auth-password"),
    );
    if user.is_empty() && password.is_empty() {
        return Ok(None);
    }
    let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let mut value: MetadataValue<_> = value.parse().context("user and password")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Server {
    /// Who is asked about flows.
    pub fn observer(&self) -> ObserverClient<Service> {
        // What one node says of itself may be long.
        ObserverClient::new(self.service.clone()).max_decoding_message_size(64 << 20)
    }

    /// Where other questions go.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// The answer to one question.
    ///
    /// # Errors
    /// There was none in time, or a refusal.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.limit, work).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => Err(anyhow!(
                "{} did not answer in {} s",
                self.name,
                self.limit.as_secs_f64()
            )),
        }
    }

    /// What the server said, in one line.
    pub fn refused(&self, status: &Status) -> anyhow::Error {
        let text = match status.message() {
            "" => status.code().description().to_owned(),
            text => text.to_owned(),
        };
        match status.code() {
            Code::InvalidArgument => anyhow!("{text}"),
            Code::Unimplemented => anyhow!("{} does not answer that: {text}", self.name),
            code => anyhow!("{}: {code:?}: {text}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(pairs: &[(&'static str, &str)]) -> Settings {
        let mut flags: BTreeMap<_, _> = pairs
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        flags.insert("config", "/nowhere".to_owned());
        Settings::load(&flags, &|_| None).unwrap()
    }

    #[test]
    fn who_is_asked() {
        let (text, tls) = target(&settings(&[]), false).unwrap();
        assert_eq!((text.as_str(), tls.is_some()), ("localhost:4245", false));
        let (text, _) = target(&settings(&[]), true).unwrap();
        assert_eq!(text, "unix:///var/run/cilium/hubble.sock");
        let (text, _) = target(&settings(&[("server", "a:1")]), true).unwrap();
        assert_eq!(text, "a:1");
        let all = settings(&[
            ("server", "tls://a:1"),
            ("tls-client-cert-file", "c"),
            ("tls-client-key-file", "k"),
            ("tls-server-name", "n"),
        ]);
        let (text, tls) = target(&all, false).unwrap();
        let tls = tls.unwrap();
        assert_eq!(text, "a:1");
        assert_eq!(tls.identity, Some(("c".into(), "k".into())));
        assert_eq!(tls.server_name.as_deref(), Some("n"));
        let half = settings(&[("tls", "true"), ("tls-client-cert-file", "c")]);
        assert!(
            target(&half, false)
                .unwrap_err()
                .to_string()
                .contains("belong together")
        );
    }
}
