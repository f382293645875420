// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of named steps: each announced and timed, stopped at the first that fails, summed up at the end.

use std::time::{Duration, Instant};

use anyhow::{bail, Result};

use crate::project::Project;
use crate::shell::say;

/// One step of a verb.
pub(crate) struct Step {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What it checks, for `--list`.
    pub(crate) about: &'static str,
    /// Does it.
    pub(crate) run: fn(&Project) -> Result<Done>,
}

/// How a step ended that did not fail.
pub(crate) enum Done {
    /// All of it was done.
    Passed,
    /// It could not be done here, for this reason.
    Skipped(String),
}

/// What became of a step.
struct Outcome {
    name: &'static str,
    result: Result<Done>,
    time: Duration,
}

/// The steps of these names, in the order of the list; all of them where no name is given.
pub(crate) fn choose<'a>(steps: &'a [Step], names: &[String]) -> Result<Vec<&'a Step>> {
    if let Some(unknown) = names.iter().find(|name| steps.iter().all(|step| step.name != name.as_str())) {
        let known: Vec<_> = steps.iter().map(|step| step.name).collect();
        bail!("there is no step {unknown:?}: the steps are {}", known.join(", "));
    }
    Ok(steps.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).collect())
}

/// Prints the names of the steps and what they check.
pub(crate) fn list(steps: &[&Step]) {
    for step in steps {
        say(&format!("{:8} {}", step.name, step.about));
    }
}

/// Runs the steps in order until one fails. `verb` is how this list of steps is called, to say how to run one again.
pub(crate) fn run(project: &Project, verb: &str, steps: &[&Step]) -> Result<()> {
    let mut outcomes = Vec::new();
    for step in steps {
        say(&format!("\n=== {}: {}", step.name, step.about));
        let start = Instant::now();
        let result = (step.run)(project);
        let time = start.elapsed();
        if let Ok(Done::Skipped(reason)) = &result {
            say(&format!("=== {}: SKIPPED: {reason}", step.name));
        }
        let failed = result.is_err();
        outcomes.push(Outcome { name: step.name, result, time });
        if failed {
            break;
        }
    }
    print_table(steps, &outcomes);
    match outcomes.pop() {
        Some(Outcome { name, result: Err(error), .. }) => {
            bail!("the step {name} failed: {error:#}\nto run it alone: cargo xtask {verb} --only {name}")
        }
        _ => Ok(()),
    }
}

/// The last thing on the screen: every step, what became of it, and its seconds.
fn print_table(steps: &[&Step], outcomes: &[Outcome]) {
    say(&format!("\n{:8} {:>8}  outcome", "step", "seconds"));
    for (index, step) in steps.iter().enumerate() {
        let Some(outcome) = outcomes.get(index) else {
            say(&format!("{:8} {:>8}  not reached", step.name, "-"));
            continue;
        };
        let word = match outcome.result {
            Ok(Done::Passed) => "passed",
            Ok(Done::Skipped(_)) => "SKIPPED, for the reason above",
            Err(_) => "FAILED",
        };
        say(&format!("{:8} {:>8.1}  {word}", step.name, outcome.time.as_secs_f64()));
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    say(&format!("{:8} {:>8.1}", "all", total.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 2] = [
        Step { name: "one", about: "the first", run: |_| Ok(Done::Passed) },
        Step { name: "two", about: "the second", run: |_| Ok(Done::Passed) },
    ];

    fn chosen(names: &[&str]) -> Result<Vec<&'static str>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        Ok(choose(&STEPS, &names)?.iter().map(|step| step.name).collect())
    }

    #[test]
    fn without_a_name_every_step_is_chosen() {
        assert_eq!(chosen(&[]).unwrap(), ["one", "two"]);
    }

    #[test]
    fn chosen_steps_keep_the_order_of_the_list() {
        assert_eq!(chosen(&["two", "one"]).unwrap(), ["one", "two"]);
        assert_eq!(chosen(&["two"]).unwrap(), ["two"]);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = chosen(&["three"]).unwrap_err().to_string();
        assert!(error.contains("three") && error.contains("one, two"), "{error}");
    }
}
