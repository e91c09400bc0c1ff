//! From rows before and after to writes, in an order in which each may become visible.
use super::diff::{Op, Phase};
use super::subjects::Kept;
use crate::kernel::{Key, L4, Value, Verdict};
use std::collections::BTreeMap;

/// The writes that turn the rows of one place (subject, direction, remote) into others. Both are sorted by prefix.
pub(super) fn of_place(
    place: Key,
    before: &[Kept],
    after: &[Kept],
    mut write: impl FnMut(Phase, Op),
) {
    let (denied, denying) = (denies(before), denies(after));
    for row in after {
        let same = before
            .binary_search_by_key(&row.l4, |old| old.l4)
            .is_ok_and(|index| before[index] == *row);
        if same {
            continue;
        }
        let phase = match row.verdict {
            Verdict::Allow if !is_below(row, &denying) => Phase::PutAllow,
            _ => Phase::PutDeny,
        };
        let key = Key {
            l4: row.l4,
            ..place
        };
        write(phase, Op::Put(key, row.value()));
    }
    for row in before {
        if after.binary_search_by_key(&row.l4, |new| new.l4).is_err() {
            let key = Key {
                l4: row.l4,
                ..place
            };
            write(phase_of_delete(row, &denied, &denying), Op::Delete(key));
        }
    }
}

/// Puts writes in their order.
pub(super) fn in_order(mut ops: Vec<(Phase, Op)>) -> Vec<Op> {
    ops.sort_by_key(|(phase, op)| match op {
        // The longest match is never one that neither the old rows nor the new ones would give.
        Op::Put(key, _) => (*phase, -i16::from(key.l4.len())),
        Op::Delete(key) => (*phase, i16::from(key.l4.len())),
    });
    ops.into_iter().map(|(_, op)| op).collect()
}

/// The writes that turn rows into others, in the order of [`super::Diff::ops`]: for rows that an engine did not write,
/// or that could not be written at the time.
#[must_use]
pub fn transition(
    before: impl IntoIterator<Item = (Key, Value)>,
    after: impl IntoIterator<Item = (Key, Value)>,
) -> Vec<Op> {
    let (mut before, mut after) = (by_place(before), by_place(after));
    let mut ops = Vec::new();
    let mut write = |phase, op| ops.push((phase, op));
    for (place, new) in &mut after {
        let old = before.remove(place).unwrap_or_default();
        of_place(*place, &old, new, &mut write);
    }
    for (place, old) in &before {
        of_place(*place, old, &[], &mut write);
    }
    in_order(ops)
}

/// Rows by the place they stand in, which is a key of every packet.
fn by_place(rows: impl IntoIterator<Item = (Key, Value)>) -> BTreeMap<Key, Vec<Kept>> {
    let mut places: BTreeMap<Key, Vec<Kept>> = BTreeMap::new();
    for (key, value) in rows {
        let place = Key { l4: L4::ALL, ..key };
        places
            .entry(place)
            .or_default()
            .push(Kept::of(key.l4, value));
    }
    for rows in places.values_mut() {
        rows.sort_unstable_by_key(|row| row.l4);
    }
    places
}

fn denies(rows: &[Kept]) -> Vec<L4> {
    rows.iter()
        .filter(|row| row.verdict != Verdict::Allow)
        .map(|row| row.l4)
        .collect()
}

/// True if a denying row covers this one: then this one is an exception from it and must be there before it. `denies` are sorted;
/// few prefixes can cover one.
fn is_below(row: &Kept, denies: &[L4]) -> bool {
    let mut covering = std::iter::successors(Some(row.l4), |l4| l4.parent());
    !denies.is_empty() && covering.any(|l4| denies.binary_search(&l4).is_ok())
}

/// A row that goes because a denying one of the new rows covers it may go early: what it allowed is denied now. One that
/// is an exception from a denying row that goes, too, must be there until that is gone.
fn phase_of_delete(row: &Kept, before: &[L4], after: &[L4]) -> Phase {
    match row.verdict {
        Verdict::Allow if is_below(row, after) => Phase::DeleteOverruled,
        Verdict::Allow if !is_below(row, before) => Phase::DeleteAllow,
        _ => Phase::DeleteDeny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Direction;

    fn row(port: Option<u16>, verdict: Verdict) -> (Key, Value) {
        let key = Key {
            subject: 7,
            direction: Direction::Ingress,
            remote: 9,
            l4: port.map_or(L4::ALL, |port| L4::port(6, port)),
        };
        let value = Value {
            verdict,
            l7: None,
            precedence: 1,
            origin: 20,
        };
        (key, value)
    }

    #[test]
    fn what_a_denying_row_covers_is_found_by_its_prefixes() {
        let range = L4::range(6, 64, 127)[0];
        let denies = [range, L4::port(6, 200), L4::protocol(17)];
        let below = |l4| {
            let (_, value) = row(None, Verdict::Allow);
            let found = is_below(&Kept::of(l4, value), &denies);
            assert_eq!(found, denies.iter().any(|deny| deny.covers(l4)), "{l4}");
            found
        };
        assert!(below(L4::port(6, 80)) && below(range) && below(L4::port(17, 53)));
        assert!(!below(L4::port(6, 128)) && !below(L4::protocol(6)) && !below(L4::ALL));
    }

    #[test]
    fn only_differences_are_written_what_denies_first() {
        let kept = row(Some(80), Verdict::Allow);
        let gone = row(Some(81), Verdict::Allow);
        let new = row(Some(82), Verdict::Allow);
        let deny = row(Some(83), Verdict::Deny);
        let ops = transition([kept, gone], [kept, new, deny]);
        assert_eq!(
            ops,
            [
                Op::Put(deny.0, deny.1),
                Op::Put(new.0, new.1),
                Op::Delete(gone.0)
            ]
        );
        assert!(transition([kept], [kept]).is_empty());
        assert_eq!(transition([kept], []), [Op::Delete(kept.0)]);
    }
}
