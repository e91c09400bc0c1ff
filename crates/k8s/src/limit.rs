//! The client's rate limit: so many requests per second, and so many at once after a pause.
use kube::{Client, client::Body};
use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tower::{BoxError, Layer, Service};

/// Requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Lasting; 0: as many as there are.
    pub qps: u32,
    /// At once, after a pause; at least one.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { qps: 0, burst: 1 };
}

/// Permissions that are left, and when that was so. Less than none: so many are promised to requests that wait.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            left: f64::from(rate.burst.max(1)),
            at: now,
        }
    }

    /// Takes one permission; how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        if self.rate.qps == 0 {
            return Duration::ZERO;
        }
        let (qps, most) = (f64::from(self.rate.qps), f64::from(self.rate.burst.max(1)));
        let new = now.saturating_duration_since(self.at).as_secs_f64() * qps;
        self.left = (self.left + new).min(most) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.left / qps).max(0.0))
    }
}

/// Marks a request that somebody waits for.
#[derive(Clone, Copy, Debug)]
struct Urgent;

/// The same client for requests that somebody waits for: they have permissions of their own, as many as all others together, and so
/// do not queue behind what can wait. To be called inside the runtime.
#[must_use]
pub fn ahead(client: &Client) -> Client {
    let (inner, namespace) = (client.clone(), client.default_namespace().to_owned());
    let pass = move |mut request: http::Request<Body>| {
        let inner = inner.clone();
        request.extensions_mut().insert(Urgent);
        async move { inner.send(request).await }
    };
    Client::new(tower::service_fn(pass), namespace)
}

/// Permissions of requests that can wait, and of those that cannot.
#[derive(Debug)]
struct Buckets {
    patient: Mutex<Bucket>,
    urgent: Mutex<Bucket>,
}

impl Buckets {
    /// How long a request waits.
    fn take(&self, extensions: &http::Extensions, now: Instant) -> Duration {
        let bucket = match extensions.get::<Urgent>() {
            Some(Urgent) => &self.urgent,
            None => &self.patient,
        };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now)
    }
}

/// Puts [`Limited`] around a client's service.
#[derive(Clone, Debug)]
pub(crate) struct LimitLayer(Arc<Buckets>);

impl LimitLayer {
    pub fn new(rate: Rate) -> Self {
        let full = || Mutex::new(Bucket::new(rate, Instant::now()));
        Self(Arc::new(Buckets {
            patient: full(),
            urgent: full(),
        }))
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            buckets: self.0.clone(),
        }
    }
}

/// Waits before it passes requests on.
#[derive(Clone, Debug)]
pub(crate) struct Limited<S> {
    inner: S,
    buckets: Arc<Buckets>,
}

impl<S, B> Service<http::Request<B>> for Limited<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let wait = self.buckets.take(request.extensions(), Instant::now());
        // Nothing is sent before it is asked for.
        let answer = self.inner.call(request);
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            answer.await.map_err(Into::into)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_pass_and_what_lasts_is_slowed() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Rate { qps: 10, burst: 3 }, begin);
        let mut take = |ms: u64| bucket.take(begin + Duration::from_millis(ms)).as_millis();
        assert_eq!([take(0), take(0), take(0)], [0, 0, 0]);
        assert_eq!([take(0), take(0)], [100, 200]);
        assert_eq!(take(1_000), 0, "two were promised, ten came, three fit");
        assert_eq!([take(1_000), take(1_000), take(1_000)], [0, 0, 100]);
        let mut none = Bucket::new(Rate::UNLIMITED, begin);
        assert!((0..1000).all(|_| none.take(begin).is_zero()));
    }
    #[test]
    fn what_is_waited_for_does_not_queue_behind_the_rest() {
        let layer = LimitLayer::new(Rate { qps: 10, burst: 1 });
        let now = Instant::now();
        let (patient, mut urgent) = (http::Extensions::new(), http::Extensions::new());
        urgent.insert(Urgent);
        let take = |extensions| layer.0.take(extensions, now).as_millis();
        assert_eq!(
            [take(&patient), take(&patient), take(&patient)],
            [0, 100, 200]
        );
        assert_eq!(
            [take(&urgent), take(&urgent)],
            [0, 100],
            "it has a limit, too"
        );
    }

    #[tokio::test]
    async fn requests_of_a_client_that_goes_ahead_are_marked() {
        let server = tower::service_fn(|request: http::Request<Body>| async move {
            let marked = request.extensions().get::<Urgent>().is_some();
            Ok::<_, BoxError>(http::Response::new(Body::from(
                marked.to_string().into_bytes(),
            )))
        });
        let client = Client::new(server, "default");
        let ask = |client: Client| async move {
            let request = http::Request::get("/").body(Vec::new()).unwrap();
            client.request_text(request).await.unwrap()
        };
        assert_eq!(ask(client.clone()).await, "false");
        assert_eq!(ask(ahead(&client)).await, "true");
    }
}
