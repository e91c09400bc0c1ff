//! What every long-running part needs: settings, logging, metrics, health, stopping, and the loop that drives reconcilers.
pub mod flags;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod reconcile;
pub mod reconcile_async;
pub mod settings;
pub mod stop;

/// The address to listen at: `:9962` means every address, of both families where the machine has them.
#[must_use]
pub fn listen_address(given: &str) -> String {
    match given.strip_prefix(':') {
        Some(port) if std::path::Path::new("/proc/net/if_inet6").exists() => {
            format!("[::]:{port}")
        }
        Some(port) => format!("0.0.0.0:{port}"),
        None => given.to_owned(),
    }
}
