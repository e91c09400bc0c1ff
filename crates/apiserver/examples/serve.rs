//! The API server alone, without TLS: `cargo run -p hypha-apiserver --example serve -- 127.0.0.1:8001 [FILE]`.
//! Whoever reaches the address is its administrator.

use hypha_apiserver::store::StoreOptions;
use hypha_apiserver::{ApiServer, ServerOptions};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let store = StoreOptions {
        data: arguments.next().map(Into::into),
        ..StoreOptions::default()
    };
    let server = ApiServer::open(ServerOptions {
        store,
        ..ServerOptions::default()
    })?;
    let listener = TcpListener::bind(&address).await?;
    println!("kubectl --server http://{}", listener.local_addr()?);
    server.serve(listener).await?;
    Ok(())
}
