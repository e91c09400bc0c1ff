//! When a loop over tables goes round again.
use runtime::stop::Stop;
use std::time::Duration;

/// Pauses after a failure: twice as long each time.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How often one loop goes round.
pub(crate) struct Rounds {
    pause: Duration,
}

impl Rounds {
    pub fn new() -> Self {
        Self { pause: FIRST }
    }

    /// Waits until the next round: after a failure for a while, else until `news` ends. False if there is none any more.
    pub async fn next(
        &mut self,
        stop: &Stop,
        failed: bool,
        news: impl Future<Output = ()>,
    ) -> bool {
        let next = async {
            if failed {
                self.after_failure().await;
            } else {
                self.pause = FIRST;
                news.await;
            }
        };
        stop.or(next).await.is_some()
    }

    /// Waits after a failure.
    pub async fn after_failure(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = longer(self.pause);
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::stop;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn pauses_grow_with_failures_and_begin_anew_after_success() {
        let (stopper, stop) = stop::channel();
        let mut rounds = Rounds::new();
        for _ in 0..2 {
            assert!(
                rounds.next(&stop, true, pending()).await,
                "no news are waited for"
            );
        }
        assert_eq!(rounds.pause, FIRST * 4);
        assert!(rounds.next(&stop, false, ready(())).await);
        assert_eq!(rounds.pause, FIRST);
        assert_eq!(longer(LONGEST - FIRST), LONGEST);
        stopper.stop();
        assert!(!rounds.next(&stop, false, pending()).await);
    }
}
