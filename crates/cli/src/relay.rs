//! What `hypha relay` has of the cluster: the objects of policies, for its page.
use ::flow::web::policy::{self, Found, Named};
use k8s::error::says;
use k8s::{ApiServer, Client, Rate};
use tokio::sync::OnceCell;

/// People look at one after the other.
const RATE: Rate = Rate { qps: 10, burst: 20 };

/// Policies of the cluster that this pod is in; asked for with its service account.
#[derive(Default)]
pub struct Policies(OnceCell<Client>);

impl policy::Policies for Policies {
    fn object<'a>(&'a self, policy: &'a Named) -> Found<'a> {
        Box::pin(async move {
            let client = self
                .0
                .get_or_try_init(|| k8s::client(&ApiServer::InCluster, RATE))
                .await
                .map_err(|error| error.to_string())?;
            let namespace = policy.namespace.as_deref();
            k8s::policy::object(client, &policy.kind, namespace, &policy.name)
                .await
                .map_err(|error| says(&error))
        })
    }
}
