//! What every long-running part needs: settings, logging, metrics, health, stopping, and the loop that drives reconcilers.
pub mod health;
pub mod logging;
pub mod metrics;
pub mod reconcile;
pub mod settings;
pub mod stop;
