// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line a check, and the sum of them.

use std::io::{stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::machine::Machine;

/// Some checks that need no others.
pub(crate) type Job<'a> = Box<dyn FnOnce(&mut Report) + Send + 'a>;

/// What passed and what failed.
#[derive(Default)]
pub(crate) struct Report {
    passed: u32,
    failed: u32,
    /// The lines of checks that are done beside others, to be printed together.
    kept: Option<Vec<String>>,
}

impl Report {
    /// Does jobs beside one another, so many at a time, the first ones first. Each one's lines are printed together
    /// once it is done.
    pub(crate) fn beside_one_another(&mut self, at_a_time: usize, jobs: Vec<Job<'_>>) {
        let jobs = Mutex::new(jobs.into_iter());
        let all = Mutex::new(self);
        thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    while let Some(job) = next(&jobs) {
                        let mut report = Self { kept: Some(Vec::new()), ..Self::default() };
                        job(&mut report);
                        lock(&all).add(report);
                    }
                });
            }
        });
    }

    fn add(&mut self, report: Self) {
        self.passed += report.passed;
        self.failed += report.failed;
        for line in report.kept.into_iter().flatten() {
            self.say(&line);
        }
    }

    /// Does a check and prints its line: the figures that it gives, or why it failed. Says whether it passed.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) -> bool {
        let start = Instant::now();
        let result = check();
        let seconds = start.elapsed().as_secs_f64();
        let (word, text) = match &result {
            Ok(figures) => ("ok", figures.clone()),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        match result {
            Ok(_) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
        self.say(&format!("{word:6} {name}: {text} ({seconds:.1} s)"));
        word == "ok"
    }

    /// Does a check of a machine that has others, too. An error says what the machine said before it.
    pub(crate) fn check_on(
        &mut self,
        machine: &mut Machine,
        name: &str,
        check: impl FnOnce(&mut Machine) -> Result<String>,
    ) -> bool {
        self.check(name, || check(machine).map_err(|error| machine.explain(error)))
    }

    /// Prints a line, which need not be that of a check. Nobody may listen any more.
    pub(crate) fn say(&mut self, line: &str) {
        match &mut self.kept {
            Some(lines) => lines.push(line.to_owned()),
            None => drop(writeln!(stdout(), "{line}")),
        }
    }

    /// Prints the last line, and says whether nothing failed.
    pub(crate) fn finish(&mut self) -> bool {
        self.say(&format!("{} passed, {} failed", self.passed, self.failed));
        self.failed == 0
    }
}

/// The next job, to be done by whoever asked.
fn next<'a>(jobs: &Mutex<impl Iterator<Item = Job<'a>>>) -> Option<Job<'a>> {
    lock(jobs).next()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::Barrier;

    #[test]
    fn jobs_are_done_beside_one_another_and_all_count() {
        // Each waits for the other: one after the other they would never end.
        let meeting = Barrier::new(2);
        let job = |report: &mut Report| {
            meeting.wait();
            report.check("good", || Ok("1".to_owned()));
            report.check("bad", || bail!("2"));
        };
        let mut report = Report { kept: Some(Vec::new()), ..Report::default() };
        report.beside_one_another(2, vec![Box::new(job), Box::new(job), Box::new(job), Box::new(job)]);
        assert_eq!((report.passed, report.failed), (4, 4));
        let words: Vec<_> = report.kept.iter().flatten().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(words, ["ok", "FAILED"].repeat(4));
    }
}
