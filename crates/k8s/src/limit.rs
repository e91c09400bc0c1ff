//! The client's rate limit: so many requests per second, and so many at once after a pause.
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

/// Puts [`Limited`] around a client's service.
#[derive(Clone, Debug)]
pub(crate) struct LimitLayer(Arc<Mutex<Bucket>>);

impl LimitLayer {
    pub fn new(rate: Rate) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(rate, Instant::now()))))
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            bucket: self.0.clone(),
        }
    }
}

/// Waits before it passes requests on.
#[derive(Clone, Debug)]
pub(crate) struct Limited<S> {
    inner: S,
    bucket: Arc<Mutex<Bucket>>,
}

impl<S, R> Service<R> for Limited<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(Instant::now())
        };
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
}
