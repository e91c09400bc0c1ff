//! Tables: even, alike everywhere, and moved little.
use hypha_lb::maglev::{SIZES, Shape};
use proptest::prelude::*;

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("10.{}.{}.{}:80/TCP", n % 7, n / 250, n % 250))
        .collect()
}

fn table(size: u32, names: &[String], weight: impl Fn(usize) -> u16) -> Vec<u32> {
    let weighted: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_bytes(), weight(i)))
        .collect();
    Shape::new(size, &hypha_lb::maglev::SEED)
        .unwrap()
        .table(&weighted)
}

fn counts(table: &[u32], backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    table.iter().for_each(|place| counts[*place as usize] += 1);
    counts
}

#[test]
fn shares_differ_by_one_place_at_most() {
    for (size, backends) in [
        (251, 1),
        (251, 7),
        (16_381, 3),
        (16_381, 100),
        (65_521, 1000),
        (251, 251),
    ] {
        let counts = counts(&table(size, &names(backends), |_| 100), backends);
        let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(
            max - min <= 1,
            "{size} places, {backends} backends: {min} to {max}"
        );
    }
}

#[test]
fn more_backends_than_places() {
    let counts = counts(&table(251, &names(300), |_| 1), 300);
    assert!(counts.iter().all(|count| *count <= 1));
}

#[test]
fn weights_are_kept_to_the_place() {
    let counts = counts(
        &table(16_381, &names(4), |index| [100, 200, 0, 300][index]),
        4,
    );
    for (count, exact) in counts
        .iter()
        .zip([16_381.0 / 6.0, 16_381.0 / 3.0, 0.0, 16_381.0 / 2.0])
    {
        assert!((f64::from(*count) - exact).abs() < 1.0, "{counts:?}");
    }
    assert!(table(251, &names(2), |_| 0).is_empty() && table(251, &[], |_| 1).is_empty());
}

#[test]
fn one_of_a_hundred_goes_and_two_percent_move_at_most() {
    let all = names(100);
    let before = table(16_381, &all, |_| 100);
    let mut worst = 0;
    for gone in (0..100).step_by(9) {
        let mut rest = all.clone();
        rest.remove(gone);
        let after = table(16_381, &rest, |_| 100);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(old, new)| all[**old as usize] != rest[**new as usize])
            .count();
        worst = worst.max(moved);
    }
    assert!(worst * 100 <= 16_381 * 2, "{worst} of 16381 places moved");
}

#[test]
fn a_table_is_the_same_wherever_and_in_whatever_order() {
    let names = names(50);
    let mut turned = names.clone();
    turned.reverse();
    let (one, other) = (table(4093, &names, |_| 7), table(4093, &turned, |_| 7));
    let same = one
        .iter()
        .zip(&other)
        .all(|(a, b)| names[*a as usize] == turned[*b as usize]);
    assert!(same);
    // What other nodes have, perhaps of another version: these numbers must never change.
    assert_eq!(one[..12], [8, 22, 22, 7, 20, 8, 32, 20, 31, 2, 10, 11]);
}

#[test]
fn another_seed_is_another_table_and_sizes_are_those_known() {
    let names = names(10);
    let weighted: Vec<_> = names.iter().map(|name| (name.as_bytes(), 1)).collect();
    let tables = [b"one", b"two"].map(|seed| Shape::new(1021, seed).unwrap().table(&weighted));
    assert!(tables[0] != tables[1]);
    assert!(SIZES.iter().all(|size| Shape::new(*size, b"x").is_ok()));
    let refused = Shape::new(1000, b"x").unwrap_err();
    assert!(refused.contains("16381"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_table_is_full_and_fair(weights in prop::collection::vec(0..500_u16, 1..40), size in prop::sample::select(&SIZES[..5])) {
        let places = table(size, &names(weights.len()), |index| weights[index]);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        prop_assert_eq!(places.len(), if total == 0 { 0 } else { size as usize });
        if total > 0 {
            for (count, weight) in counts(&places, weights.len()).iter().zip(&weights) {
                let exact = f64::from(size) * f64::from(*weight) / total as f64;
                prop_assert!((f64::from(*count) - exact).abs() < 1.0);
            }
        }
    }
}
