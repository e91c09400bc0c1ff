//! Leader election by a `Lease`: of several processes one works.
//!
//! [`Election`] decides and reads no clock; [`Elector`] asks and writes. A lease counts as expired when *this* process has seen it
//! unchanged for its whole duration: clocks of different machines need not agree.
use crate::error::{is_conflict, is_not_found, says};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use std::time::{Duration, Instant};

/// Which lease, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Name of this process, different from every other one's.
    pub identity: String,
    /// How long others wait after the last renewal before they take over.
    pub duration: Duration,
    /// How long the leader tries to renew before it gives up; below `duration`.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry_period: Duration,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this, on top of what was seen; `leading` once it is written.
    Write(Box<LeaseSpec>),
    /// Somebody else leads.
    Follow(String),
}

/// The deciding half.
#[derive(Clone, Debug)]
pub struct Election {
    settings: LeaseSettings,
    /// Holder, renewal time and changes of hands as last seen, and when that was new.
    seen: Option<(Seen, Duration)>,
}

type Seen = (Option<String>, Option<MicroTime>, Option<i32>);

impl Election {
    /// An election in which nothing has been seen.
    #[must_use]
    pub fn new(settings: LeaseSettings) -> Self {
        Self {
            settings,
            seen: None,
        }
    }

    /// What to do about the lease as it is, `now` being the time since any fixed moment and `clock` the time to write.
    pub fn step(&mut self, lease: Option<&LeaseSpec>, now: Duration, clock: Timestamp) -> Step {
        let Some(lease) = lease else {
            return Step::Write(Box::new(self.claim(None, clock)));
        };
        let current: Seen = (
            lease.holder_identity.clone(),
            lease.renew_time.clone(),
            lease.lease_transitions,
        );
        let since = match &self.seen {
            Some((seen, since)) if *seen == current => *since,
            _ => now,
        };
        self.seen = Some((current, since));
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        let seconds = u64::try_from(lease.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let expired = now.saturating_sub(since) >= Duration::from_secs(seconds.max(1));
        if holder.is_empty() || holder == self.settings.identity || expired {
            Step::Write(Box::new(self.claim(Some(lease), clock)))
        } else {
            Step::Follow(holder.to_owned())
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>, clock: Timestamp) -> LeaseSpec {
        let me = Some(self.settings.identity.clone());
        let mine = before.is_some_and(|lease| lease.holder_identity == me);
        let transitions = before
            .and_then(|lease| lease.lease_transitions)
            .unwrap_or(0);
        let acquired = before
            .filter(|_| mine)
            .and_then(|lease| lease.acquire_time.clone());
        let seconds = i32::try_from(self.settings.duration.as_secs()).unwrap_or(i32::MAX);
        LeaseSpec {
            holder_identity: me,
            lease_duration_seconds: Some(seconds.max(1)),
            acquire_time: acquired.or(Some(MicroTime(clock))),
            renew_time: Some(MicroTime(clock)),
            lease_transitions: Some(if mine || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }
}

/// The half that talks to the API server.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    election: Election,
    settings: LeaseSettings,
    started: Instant,
}

/// How one try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Try {
    /// This process leads.
    Leading,
    /// Another one does.
    Following(String),
    /// The API server did not take the lease.
    Failed(String),
}

impl Elector {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(client: Client, settings: LeaseSettings) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            election: Election::new(settings.clone()),
            settings,
            started: Instant::now(),
        }
    }

    /// Tries to become or stay the leader, once.
    pub async fn attempt(&mut self) -> Try {
        match tokio::time::timeout(self.settings.renew_deadline, self.exchange()).await {
            Ok(Ok(outcome)) => outcome,
            // Somebody was faster; the next try sees who.
            Ok(Err(error)) if is_conflict(&error) => Try::Following(String::new()),
            Ok(Err(error)) => Try::Failed(says(&error)),
            Err(_) => Try::Failed("the API server did not answer in time".to_owned()),
        }
    }

    async fn exchange(&mut self) -> Result<Try, kube::Error> {
        let name = self.settings.name.clone();
        let present = match self.api.get(&name).await {
            Ok(lease) => Some(lease),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(error),
        };
        let spec = present.as_ref().and_then(|lease| lease.spec.as_ref());
        let now = self.started.elapsed();
        let next = match self.election.step(spec, now, Timestamp::now()) {
            Step::Follow(holder) => return Ok(Try::Following(holder)),
            Step::Write(next) => *next,
        };
        self.write(present, next).await?;
        Ok(Try::Leading)
    }

    async fn write(&self, present: Option<Lease>, spec: LeaseSpec) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let spec = Some(spec);
        match present {
            Some(lease) => {
                let lease = Lease { spec, ..lease };
                self.api
                    .replace(&self.settings.name, &params, &lease)
                    .await?
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.settings.name.clone()),
                    namespace: Some(self.settings.namespace.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec };
                self.api.create(&params, &lease).await?
            }
        };
        Ok(())
    }

    /// Tries until this process leads. `told` hears of every outcome.
    pub async fn acquire(&mut self, mut told: impl FnMut(&Try)) {
        loop {
            let outcome = self.attempt().await;
            told(&outcome);
            if outcome == Try::Leading {
                return;
            }
            tokio::time::sleep(self.settings.retry_period).await;
        }
    }

    /// Renews until that fails for longer than the deadline, or somebody else leads: then why.
    pub async fn keep(&mut self) -> String {
        let mut renewed = Instant::now();
        let mut failure = String::new();
        loop {
            tokio::time::sleep(self.settings.retry_period).await;
            match self.attempt().await {
                Try::Leading => renewed = Instant::now(),
                Try::Following(holder) if !holder.is_empty() => {
                    return format!("{holder} leads now");
                }
                Try::Following(_) => {}
                Try::Failed(text) => failure = text,
            }
            if renewed.elapsed() >= self.settings.renew_deadline {
                return format!(
                    "the lease could not be renewed for {} s: {failure}",
                    renewed.elapsed().as_secs()
                );
            }
        }
    }

    /// Gives the lease back, so that another process need not wait for it to expire.
    pub async fn release(&mut self) {
        let Ok(Some(lease)) = self.api.get_opt(&self.settings.name).await else {
            return;
        };
        let Some(spec) = lease.spec.clone() else {
            return;
        };
        if spec.holder_identity.as_ref() != Some(&self.settings.identity) {
            return;
        }
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..spec
        };
        if let Err(error) = self.write(Some(lease), spec).await {
            tracing::debug!(
                error = says(&error),
                "the lease was not given back; it expires"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election(identity: &str) -> Election {
        Election::new(LeaseSettings {
            namespace: "kube-system".to_owned(),
            name: "lock".to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        })
    }

    fn at(seconds: u64) -> (Duration, Timestamp) {
        let clock = Timestamp::from_second(1_700_000_000 + seconds as i64).unwrap();
        (Duration::from_secs(seconds), clock)
    }

    fn written(step: Step) -> LeaseSpec {
        match step {
            Step::Write(spec) => *spec,
            Step::Follow(holder) => panic!("{holder} leads"),
        }
    }

    #[test]
    fn the_first_leads_until_it_stops_renewing() {
        let (mut a, mut b) = (election("a"), election("b"));
        let step = |one: &mut Election, lease: Option<&LeaseSpec>, seconds| {
            let (now, clock) = at(seconds);
            one.step(lease, now, clock)
        };
        let first = written(step(&mut a, None, 0));
        assert_eq!(step(&mut b, Some(&first), 1), Step::Follow("a".to_owned()));
        let renewed = written(step(&mut a, Some(&first), 10));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(0));
        assert_eq!(
            step(&mut b, Some(&renewed), 17),
            Step::Follow("a".to_owned()),
            "renewed: the 15 seconds begin anew"
        );
        assert_eq!(
            step(&mut b, Some(&renewed), 31),
            Step::Follow("a".to_owned())
        );
        let taken = written(step(&mut b, Some(&renewed), 32));
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(step(&mut a, Some(&taken), 33), Step::Follow("b".to_owned()));
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let mut b = election("b");
        let back = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..LeaseSpec::default()
        };
        let (now, clock) = at(0);
        let taken = written(b.step(Some(&back), now, clock));
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    }
}
