//! Streams of several nodes as one, in the order of time, as far as they are there in time.
//!
//! The oldest of all nodes' next items is due once every node has told its next one. A node that does not tell is waited for,
//! but not for ever: an item is held for a bounded time, and of those who let others wait twice nothing is expected any more.
//! What they send comes later, then, and not in its order.
use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How many items of a node may wait for those of others.
pub const BUFFER: usize = 512;

/// How long an item is held.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// At the beginning, until every node has told something.
    pub first: Duration,
    /// Later.
    pub later: Duration,
    /// Nodes may have nothing to tell for long: they are waited for again and again.
    pub patient: bool,
}

impl Hold {
    /// For what is recorded.
    pub const RECORDED: Self = Self {
        first: Duration::from_secs(1),
        later: Duration::from_secs(1),
        patient: false,
    };
    /// For what comes as it happens.
    pub const LIVE: Self = Self {
        first: Duration::from_millis(250),
        later: Duration::from_millis(30),
        patient: true,
    };
}

/// An item's time, as seconds and nanoseconds.
pub type Time = (i64, i32);

/// What nodes send: each with its time and when it came in.
pub type Item<T> = (Time, Instant, T);

struct Head<T> {
    time: Time,
    /// Of items of the same time the one that came first.
    order: u64,
    arrived: Instant,
    item: T,
    node: Node<T>,
}

struct Node<T> {
    number: u64,
    items: mpsc::Receiver<Item<T>>,
    strikes: u8,
}

impl<T> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Head<T> {}

impl<T> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Head<T> {
    /// The heap gives the greatest, which is to be the oldest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.order).cmp(&(self.time, self.order))
    }
}

type Next<T> = Pin<Box<dyn Future<Output = (Node<T>, Option<Item<T>>)> + Send>>;

/// The streams that are merged.
pub struct Merge<T> {
    hold: Hold,
    heads: BinaryHeap<Head<T>>,
    waiting: FuturesUnordered<Next<T>>,
    /// Nodes in `waiting` that others wait for.
    expected: BTreeSet<u64>,
    strikes: std::collections::BTreeMap<u64, u8>,
    /// Nodes that have told nothing so far.
    silent: BTreeSet<u64>,
    numbers: u64,
    order: u64,
}

/// How often a node may let others wait.
const STRIKES: u8 = 2;

impl<T: Send + 'static> Merge<T> {
    /// Nothing yet.
    #[must_use]
    pub fn new(hold: Hold) -> Self {
        Self {
            hold,
            heads: BinaryHeap::new(),
            waiting: FuturesUnordered::new(),
            expected: BTreeSet::new(),
            strikes: std::collections::BTreeMap::new(),
            silent: BTreeSet::new(),
            numbers: 0,
            order: 0,
        }
    }

    /// One more node.
    pub fn add(&mut self, items: mpsc::Receiver<Item<T>>) {
        self.numbers += 1;
        self.silent.insert(self.numbers);
        self.wait(Node {
            number: self.numbers,
            items,
            strikes: 0,
        });
    }

    fn wait(&mut self, mut node: Node<T>) {
        let strikes = self.strikes.get(&node.number).copied().unwrap_or_default();
        node.strikes = strikes;
        if strikes < STRIKES {
            self.expected.insert(node.number);
        }
        self.waiting.push(Box::pin(async move {
            let item = node.items.recv().await;
            (node, item)
        }));
    }

    /// Whether there is neither an item nor a node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.waiting.is_empty()
    }

    /// The next item; none once all nodes have ended. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            let Some(due) = self.due() else {
                let (node, item) = self.waiting.next().await?;
                self.arrived(node, item);
                continue;
            };
            if !self.expected.is_empty() && Instant::now() < due {
                tokio::select! {
                    biased;
                    Some((node, item)) = self.waiting.next() => {
                        self.arrived(node, item);
                        continue;
                    }
                    () = tokio::time::sleep_until(due) => self.strike(),
                }
            } else {
                // Late items that are there count, too.
                while let Some(Some((node, item))) =
                    futures::FutureExt::now_or_never(self.waiting.next())
                {
                    self.arrived(node, item);
                }
                if !self.expected.is_empty() && Instant::now() >= due {
                    self.strike();
                }
            }
            if let Some(head) = self.heads.pop() {
                self.wait(head.node);
                return Some(head.item);
            }
        }
    }

    /// When the oldest item goes out, even if somebody lets it wait.
    fn due(&self) -> Option<Instant> {
        let oldest = self.heads.peek()?;
        let hold = if self.silent.is_empty() {
            self.hold.later
        } else {
            self.hold.first
        };
        Some(oldest.arrived + hold)
    }

    fn arrived(&mut self, node: Node<T>, item: Option<Item<T>>) {
        self.expected.remove(&node.number);
        self.silent.remove(&node.number);
        let Some((time, arrived, item)) = item else {
            self.strikes.remove(&node.number);
            return;
        };
        self.order += 1;
        self.heads.push(Head {
            time,
            order: self.order,
            arrived,
            item,
            node,
        });
    }

    /// Those that did not tell in time.
    fn strike(&mut self) {
        self.silent.clear();
        if self.hold.patient {
            return;
        }
        for number in std::mem::take(&mut self.expected) {
            *self.strikes.entry(number).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(times: &[i64]) -> mpsc::Receiver<Item<i64>> {
        let (send, receive) = mpsc::channel(times.len().max(1));
        for time in times {
            send.try_send(((*time, 0), Instant::now(), *time)).unwrap();
        }
        receive
    }

    async fn all(mut merge: Merge<i64>) -> Vec<i64> {
        let mut found = Vec::new();
        while let Some(item) = merge.next().await {
            found.push(item);
        }
        assert!(merge.is_empty());
        found
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_first() {
        let mut merge = Merge::new(Hold::RECORDED);
        for times in [&[1, 4, 7][..], &[2, 5, 8], &[3, 6, 9], &[]] {
            merge.add(feed(times));
        }
        assert_eq!(all(merge).await, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(all(Merge::new(Hold::LIVE)).await.is_empty());
    }

    /// A node that never tells anything costs the others two seconds in all, not one for every item.
    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_not_waited_for_again_and_again() {
        let mut merge = Merge::new(Hold::RECORDED);
        let (held, receive) = mpsc::channel(1);
        merge.add(receive);
        merge.add(feed(&(0..1000).collect::<Vec<_>>()));
        let begun = Instant::now();
        for number in 0..1000 {
            assert_eq!(merge.next().await, Some(number));
        }
        assert!(
            begun.elapsed() <= Duration::from_millis(2100),
            "{:?}",
            begun.elapsed()
        );
        // What it sends late still comes.
        held.send(((5, 0), Instant::now(), 5)).await.unwrap();
        assert_eq!(merge.next().await, Some(5));
        drop(held);
        assert_eq!(merge.next().await, None);
    }

    /// While all are live, an item waits for others a moment at most, and that moment does not add up.
    #[tokio::test(start_paused = true)]
    async fn live_items_are_held_for_a_moment() {
        let mut merge = Merge::new(Hold::LIVE);
        let (idle, receive) = mpsc::channel(1);
        merge.add(receive);
        merge.add(feed(&(0..100).collect::<Vec<_>>()));
        let begun = Instant::now();
        for number in 0..100 {
            assert_eq!(merge.next().await, Some(number));
        }
        assert!(
            begun.elapsed() <= Duration::from_millis(300),
            "{:?}",
            begun.elapsed()
        );
        drop(idle);
        assert_eq!(merge.next().await, None);
    }

    /// Two nodes that tell at the same moment come in the order of their times, whoever is faster.
    #[tokio::test(start_paused = true)]
    async fn live_items_are_in_order() {
        let mut merge = Merge::new(Hold::LIVE);
        let (one, receive) = mpsc::channel(1);
        merge.add(receive);
        let (other, receive) = mpsc::channel(1);
        merge.add(receive);
        tokio::spawn(async move {
            one.send(((10, 0), Instant::now(), 10)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            other.send(((9, 0), Instant::now(), 9)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        assert_eq!(merge.next().await, Some(9));
        assert_eq!(merge.next().await, Some(10));
    }
}
