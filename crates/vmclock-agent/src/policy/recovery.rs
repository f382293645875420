// SPDX-License-Identifier: MIT OR Apache-2.0
//! One disruption or restore, from its event to the machine that is ready again.

use super::Moment;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClockState {
    Waiting,
    Right,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HookState {
    Waiting,
    Run(u64),
    Succeeded,
    Failed,
}

#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) names: Vec<&'static str>,
    pub(super) since: Moment,
    pub(super) clock: ClockState,
    pub(super) hooks: HookState,
    /// Why there is no time, as it was reported last.
    pub(super) no_time: Option<String>,
    pub(super) gives_up_at: Option<Moment>,
}

impl Recovery {
    pub(super) fn new(names: &[&'static str], since: Moment, gives_up_at: Option<Moment>) -> Self {
        let (clock, hooks) = (ClockState::Waiting, HookState::Waiting);
        let mut recovery = Self { names: Vec::new(), since, clock, hooks, no_time: None, gives_up_at };
        recovery.add(names);
        recovery
    }

    /// More names, each once; a restore is what matters most.
    pub(super) fn add(&mut self, names: &[&'static str]) {
        for name in names {
            if !self.names.contains(name) {
                self.names.push(name);
            }
        }
        self.names.sort_by_key(|name| *name != "restored");
    }
}
