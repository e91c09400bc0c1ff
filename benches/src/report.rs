//! The table and its JSON.
use std::{fmt, fs, io, path::Path};

use serde::Serialize;

/// One figure.
#[derive(Serialize)]
pub struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    baseline: f64,
    ratio: f64,
    runs: usize,
}

impl Row {
    /// The medians of both sides, and the median of the ratios of runs that followed each other.
    pub fn new(name: String, unit: &'static str, ours: &[f64], theirs: &[f64]) -> Self {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(o, t)| o / t.max(f64::MIN_POSITIVE))
            .collect();
        Self {
            name,
            value: median(ours),
            unit,
            baseline: median(theirs),
            ratio: median(&ratios),
            runs: ours.len(),
        }
    }
}

impl Row {
    /// A figure that has no counterpart in the kernel: the ratio is to the goal.
    pub fn against_goal(name: String, unit: &'static str, value: f64, goal: f64) -> Self {
        Self {
            name,
            value,
            unit,
            baseline: goal,
            ratio: value / goal.max(f64::MIN_POSITIVE),
            runs: 1,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<44} {:>12.1} {:<8} {:>12.1} {:>7.2}",
            self.name, self.value, self.unit, self.baseline, self.ratio
        )
    }
}

/// All figures.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn print(&self) {
        println!(
            "{:<44} {:>12} {:<8} {:>12} {:>7}",
            "NAME", "HYPHA", "UNIT", "KERNEL", "RATIO"
        );
        for row in &self.rows {
            println!("{row}");
        }
    }

    /// Writes the rows as a JSON array.
    pub fn write(&self, to: &Path) -> io::Result<()> {
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(to, serde_json::to_vec_pretty(&self.rows)?)
    }
}

/// The value that this part of all does not exceed; zero of none.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 - 1.0) * p).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// The middle value; zero of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
