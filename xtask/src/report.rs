//! What a person sees of a task: a line per step, with the time it took.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

/// How a step ended well.
pub enum Outcome {
    /// Nothing was to do; the text says what was found.
    Present(String),
    /// Something was done; the text says what.
    Done(String),
    /// Something is missing and the work goes on without it; the text says what and what to do.
    Missing(String),
}

/// A numbered list of steps.
pub struct Steps {
    task: &'static str,
    count: usize,
    total: usize,
}

impl Steps {
    pub fn new(task: &'static str, total: usize) -> Self {
        Self {
            task,
            count: 0,
            total,
        }
    }

    /// Runs one step between `name …` and what came of it, all on one line.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        self.count += 1;
        print!("{} {}/{} {name:<22} ", self.task, self.count, self.total);
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let result = work();
        let time = format!("({:.1} s)", start.elapsed().as_secs_f64());
        match &result {
            Ok(Outcome::Present(what)) => println!("ok: {what} {time}"),
            Ok(Outcome::Done(what)) => println!("done: {what} {time}"),
            Ok(Outcome::Missing(what)) => println!("MISSING: {what} {time}"),
            Err(_) => println!("FAILED {time}"),
        }
        result.map(drop)
    }
}
