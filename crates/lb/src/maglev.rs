//! Consistent hashing: which backend a flow gets, alike on all nodes, and moved as little as can be when backends come and go.
//!
//! Every backend has a permutation of the table's places, as in Maglev. Maglev lets the backends choose in turns, so that one
//! that goes shifts the turns of all others. Here places and backends are matched: each place takes the backend in whose
//! permutation it comes earliest, each backend gets exactly its share. The outcome does not depend on any order, shares are as
//! even as whole numbers allow, and where one of 100 backends goes, 1.6 % of the places of the default table change (1 % must).

/// Sizes of tables that may be chosen; all prime.
pub const SIZES: [u32; 10] = [
    251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071,
];

/// Seed where none is given, the 12 bytes behind the base64 text `JLfvgnHc2kaSUFaI`.
pub const SEED: [u8; 12] = [
    0x24, 0xb7, 0xef, 0x82, 0x71, 0xdc, 0xda, 0x46, 0x92, 0x50, 0x56, 0x88,
];

/// Size and seed of tables; the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    size: u32,
    seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            size: 16_381,
            seed: fold(&SEED),
        }
    }
}

impl Shape {
    /// A shape of one of the [`SIZES`].
    ///
    /// # Errors
    /// Which sizes are accepted.
    pub fn new(size: u32, seed: &[u8]) -> Result<Self, String> {
        if !SIZES.contains(&size) {
            let known: Vec<_> = SIZES.iter().map(u32::to_string).collect();
            return Err(format!(
                "{size} is no size of a Maglev table; accepted: {}",
                known.join(", ")
            ));
        }
        Ok(Self {
            size,
            seed: fold(seed),
        })
    }

    /// Places of a table.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Which backend, by its index, each place has. Backends are known by `name`, which must be the same on all nodes and
    /// different for each, and weigh as much as the number beside it. Empty where nothing has a weight.
    #[must_use]
    pub fn table(&self, backends: &[(&[u8], u16)]) -> Vec<u32> {
        let mut match_ = Matching::new(self, backends);
        for index in 0..backends.len() {
            match_.settle(index);
        }
        match_.places
    }
}

const NOBODY: u32 = u32::MAX;

/// A backend's permutation of the places, and how far it went in it.
struct Suitor {
    next: u32,
    stride: u32,
    /// Steps taken.
    step: u32,
    /// Places it is still owed.
    owed: u32,
    /// Decides between two for whom a place comes equally early.
    tie: u64,
}

struct Matching {
    places: Vec<u32>,
    /// The step in which the place's backend asked for it.
    steps: Vec<u32>,
    suitors: Vec<Suitor>,
}

impl Matching {
    fn new(shape: &Shape, backends: &[(&[u8], u16)]) -> Self {
        let size = u64::from(shape.size);
        let hashes: Vec<u64> = backends.iter().map(|b| hash(shape.seed, b.0)).collect();
        let weights: Vec<u16> = backends.iter().map(|b| b.1).collect();
        let shares = shares(shape.size, &weights, &hashes);
        let suitor = |(hash, owed): (&u64, u32)| Suitor {
            next: (mix(*hash ^ 1) % size) as u32,
            stride: (mix(*hash ^ 2) % (size - 1)) as u32 + 1,
            step: 0,
            owed,
            tie: *hash,
        };
        let any = weights.iter().any(|weight| *weight > 0);
        let places = if any { shape.size as usize } else { 0 };
        Self {
            places: vec![NOBODY; places],
            steps: vec![0; places],
            suitors: hashes.iter().zip(shares).map(suitor).collect(),
        }
    }

    /// Lets a backend ask until it has its share, and after it those who lost a place to it.
    fn settle(&mut self, first: usize) {
        let size = self.places.len() as u32;
        let mut asking = vec![first as u32];
        while let Some(index) = asking.pop() {
            while self.suitors[index as usize].owed > 0 {
                let suitor = &mut self.suitors[index as usize];
                let place = suitor.next as usize;
                suitor.next += suitor.stride;
                if suitor.next >= size {
                    suitor.next -= size;
                }
                let step = suitor.step;
                suitor.step += 1;
                let (tie, holder) = (suitor.tie, self.places[place]);
                if holder != NOBODY {
                    let held = (self.steps[place], self.suitors[holder as usize].tie);
                    if held <= (step, tie) {
                        continue;
                    }
                    self.suitors[holder as usize].owed += 1;
                    asking.push(holder);
                }
                self.suitors[index as usize].owed -= 1;
                self.places[place] = index;
                self.steps[place] = step;
            }
        }
    }
}

/// How many of `size` places each weight is worth; what whole numbers leave over goes to the greatest remainders.
fn shares(size: u32, weights: &[u16], ties: &[u64]) -> Vec<u32> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u16| u64::from(size) * u64::from(weight);
    let mut shares: Vec<u32> = weights
        .iter()
        .map(|weight| (exact(*weight) / total) as u32)
        .collect();
    let left = size - shares.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_unstable_by_key(|i| (std::cmp::Reverse(exact(weights[*i]) % total), ties[*i]));
    for index in &order[..left as usize] {
        shares[*index] += 1;
    }
    shares
}

/// A number that looks random, another one for each.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn fold(bytes: &[u8]) -> u64 {
    hash(0x9e37_79b9_7f4a_7c15, bytes)
}

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = mix(seed ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    mix(state)
}
