//! Stopping: one signal that everybody waits for.
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Asks every holder of a [`Stop`] to end. Dropping it asks too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A view of the stop signal; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A new pair.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks everybody to end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// True once asked to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Ends when asked to end.
    pub async fn stopped(&self) {
        // An error means that the sender is gone, which is a request to end too.
        let _ = self.0.clone().wait_for(|stopped| *stopped).await;
    }

    /// Runs `work` until it ends or is asked to; gives its result in the first case.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            result = work => Some(result),
            () = self.stopped() => None,
        }
    }
}

/// Ends when the process gets SIGTERM or SIGINT; gives its name.
///
/// # Errors
/// The handlers cannot be installed.
pub async fn signalled() -> std::io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => Ok("SIGTERM"),
        _ = int.recv() => Ok("SIGINT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn everybody_is_told_once_and_late_comers_too() {
        let (stopper, stop) = channel();
        assert!(!stop.is_stopped());
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.or(std::future::pending::<()>()).await }
        });
        stopper.stop();
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(5), waiting)
                .await
                .unwrap()
                .unwrap(),
            None
        );
        stop.stopped().await;
        assert!(stop.clone().is_stopped());
    }

    #[tokio::test]
    async fn a_lost_stopper_stops() {
        let (stopper, stop) = channel();
        drop(stopper);
        stop.stopped().await;
        assert!(stop.is_stopped());
    }
}
