//! Accepting connections, as many as there are places for.
use crate::drain::Drain;
use futures::FutureExt;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// How long to wait where the system has nothing left to give, such as file descriptors.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves every connection in a task of its own until it is time to drain. Those under way go on.
pub(crate) async fn run<F>(
    listener: TcpListener,
    drain: &Drain,
    places: &Arc<Semaphore>,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let accept = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Not a block around it: that would keep two copies of what it needs.
                    tokio::spawn(serve(stream).map(move |()| drop(place)));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = drain.asked() => {}
        () = accept => {}
    }
}
