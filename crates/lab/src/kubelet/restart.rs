//! When containers start again. Pure.

use std::time::Duration;

/// The pause before a container that ended early starts again; the first time there is none.
pub(super) const FIRST_DELAY: Duration = Duration::from_secs(10);
/// The longest pause where nothing else is said.
pub const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A container that ran this long starts again without a pause.
pub(super) const STABLE: Duration = Duration::from_secs(600);

/// `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// From the pod's field; the default is to start again.
    pub fn parse(text: Option<&str>) -> RestartPolicy {
        match text {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    pub(super) fn again(self, code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// Pauses between starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restarts {
    last: Option<Duration>,
    longest: Duration,
}

impl Restarts {
    pub(super) fn new(longest: Duration) -> Restarts {
        Restarts {
            last: None,
            longest,
        }
    }

    /// The pause after a run of this length.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            _ if ran >= STABLE => Duration::ZERO,
            None => Duration::ZERO,
            Some(Duration::ZERO) => FIRST_DELAY.min(self.longest),
            Some(last) => (last * 2).min(self.longest),
        };
        self.last = Some(pause);
        pause
    }
}

/// As people write it: 10s, 2m40s, 5m0s.
pub(super) fn humane(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let mut restarts = Restarts::new(LONGEST_DELAY);
        let short = Duration::from_secs(1);
        let pauses: Vec<u64> = (0..8).map(|_| restarts.next(short).as_secs()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(restarts.next(STABLE), Duration::ZERO);
        assert_eq!(restarts.next(short), FIRST_DELAY);
        let mut eager = Restarts::new(Duration::ZERO);
        assert!((0..20).all(|_| eager.next(short).is_zero()));
    }

    #[test]
    fn policies() {
        let again = |text: &str| RestartPolicy::parse(Some(text));
        assert!(
            again("Always").again(0)
                && again("OnFailure").again(1)
                && !again("OnFailure").again(0)
                && !again("Never").again(1)
        );
        assert_eq!(humane(Duration::from_secs(160)), "2m40s");
        assert_eq!(humane(Duration::from_secs(10)), "10s");
    }
}
