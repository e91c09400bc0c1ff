//! Two sides that are measured in turns.
use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Load, Target},
    report::Row,
};

/// Rounds that goals of a few percent need at least, and seconds of a turn: shorter ones scatter by more than that.
const CLOSE: (usize, Duration) = (9, Duration::from_secs(2));

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    pub rounds: usize,
    /// Of one side in one round.
    pub duration: Duration,
}

impl Turns {
    /// As many, and as long, as goals of a few percent need.
    pub fn close(self) -> Self {
        let (rounds, duration) = CLOSE;
        Self {
            rounds: self.rounds.max(rounds),
            duration: self.duration.max(duration),
        }
    }

    /// One load's figures of our side against those of the other; each goes first as often as the other. Whoever is called runs
    /// the load on our side (`true`) or the other for [`Turns::duration`].
    ///
    /// # Errors
    /// A load does not work.
    pub fn row(
        self,
        name: String,
        load: Load,
        mut run: impl FnMut(bool) -> Result<f64>,
    ) -> Result<Row> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            for our in [round % 2 == 1, round % 2 == 0] {
                let figures = if our { &mut ours } else { &mut theirs };
                figures.push(run(our)?);
            }
        }
        let row = Row::new(name, load.unit(), &ours, &theirs);
        eprintln!("{row}");
        Ok(row)
    }

    /// As [`Turns::row`], of one load between two pairs of ends.
    ///
    /// # Errors
    /// A load does not work.
    pub fn between(
        self,
        name: String,
        load: Load,
        ours: &Target<'_>,
        theirs: &Target<'_>,
    ) -> Result<Row> {
        self.row(name, load, |our| {
            load.run(if our { ours } else { theirs }, self.duration)
        })
    }
}
