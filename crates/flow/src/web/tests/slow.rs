//! Readers that are slower than the flows, in a time of our own.
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream;
use http_body_util::BodyExt as _;
use runtime::stop;
use tokio::sync::{Notify, Semaphore};

use super::super::stream::body;
use super::world::World;

const PATIENCE: Duration = Duration::from_secs(10);

/// A body of flows without an end, what cuts its connection, and the place that it takes.
fn endless() -> (
    super::super::Body,
    Arc<Notify>,
    Arc<Semaphore>,
    stop::Stopper,
) {
    let world = World::shop();
    let mut number = 0;
    let flows = stream::iter(std::iter::repeat_with(move || {
        number += 1;
        Ok(world.flow(number, SystemTime::UNIX_EPOCH.into()))
    }));
    let (stopper, stop) = stop::channel();
    let (cut, places) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(1)));
    let place = places.clone().try_acquire_owned().unwrap();
    let body = body(flows, PATIENCE, stop, cut.clone(), place);
    (body, cut, places, stopper)
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_is_told() {
    let (body, _cut, places, _stop) = endless();
    tokio::time::sleep(PATIENCE * 3 / 2).await;
    let text = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "{\"error\":\"flows came faster than they were read for 10 s: ask again, for fewer\"}"
    );
    assert!(text.lines().count() > 100);
    places.acquire().await.unwrap().forget();
}

#[tokio::test(start_paused = true)]
async fn one_that_never_reads_is_cut() {
    let (_body, cut, places, _stop) = endless();
    let begun = tokio::time::Instant::now();
    cut.notified().await;
    assert_eq!(begun.elapsed().as_secs(), 20);
    places.acquire().await.unwrap().forget();
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_has_time() {
    let (mut body, _cut, places, _stop) = endless();
    for _ in 0..50 {
        tokio::time::sleep(PATIENCE * 9 / 10).await;
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(piece.starts_with(b"{\"flow\":"));
    }
    drop(body);
    places.acquire().await.unwrap().forget();
}
