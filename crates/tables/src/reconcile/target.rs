//! The synchronous driver.

use std::fmt::Display;
use std::time::Duration;

use super::{Engine, OpKind};
use crate::{Row, Snapshot};

/// Something outside that can be made equal to a table's rows. All operations are idempotent.
pub trait Target<T: Row> {
    /// Why an operation failed. Shown with the row until it succeeds.
    type Error: Display;

    /// Makes the outside have this row, whatever it had under the row's key.
    ///
    /// # Errors
    /// When it does not; it is tried again.
    fn update(&mut self, snapshot: &Snapshot, row: &T) -> Result<(), Self::Error>;

    /// Makes the outside have nothing under this row's key.
    ///
    /// # Errors
    /// When it does; it is tried again.
    fn delete(&mut self, snapshot: &Snapshot, row: &T) -> Result<(), Self::Error>;

    /// Removes whatever belongs to none of `rows`.
    ///
    /// # Errors
    /// When something is left; it is tried again.
    fn prune(
        &mut self,
        snapshot: &Snapshot,
        rows: &mut dyn Iterator<Item = &T>,
    ) -> Result<(), Self::Error>;
}

impl<T: Row> Engine<T> {
    /// Polls once and carries the operations out on `target`, one after another. Returns when to call again if the
    /// table does not change before; see [`deadline`](Self::deadline).
    pub fn step<G: Target<T>>(
        &mut self,
        snapshot: &Snapshot,
        now: Duration,
        target: &mut G,
    ) -> Option<Duration> {
        for op in self.poll(snapshot, now) {
            let outcome = match op.kind {
                OpKind::Update(row) => target.update(snapshot, &row),
                OpKind::Delete(row) => target.delete(snapshot, &row),
                OpKind::Prune(rows) => target.prune(snapshot, &mut rows.iter().map(AsRef::as_ref)),
            };
            self.complete(op.ticket, now, outcome);
        }
        self.deadline()
    }
}
