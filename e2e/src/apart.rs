// SPDX-License-Identifier: MIT OR Apache-2.0
//! A CPU for the guest, and another for who asks it for its counter.
//!
//! Two counters are compared by a question and its answer, a microsecond apart, so both sides have to run at one time.
//! On a busy machine the system may keep them on one CPU for as long as it likes: then whoever asks is in the way of
//! whoever should answer, and no answer says anything.

use std::fs;
use std::process::Child;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// QEMU's threads are kept off a CPU, for as long as this lives, and who asks has that one.
pub(crate) struct Apart {
    askers: Vec<Pid>,
    qemu: Pid,
    all: CpuSet,
}

impl Apart {
    /// Keeps this thread, and the publisher if there is one, apart from QEMU. `None` where there is but one CPU.
    pub(crate) fn keep(publisher: Option<&Child>, qemu: Pid) -> Result<Option<Self>> {
        let all = sched_getaffinity(None).context("cannot find out which CPUs there are")?;
        let (mut own, mut others) = (CpuSet::new(), all);
        let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).context("no CPU")?;
        own.set(last);
        others.unset(last);
        if others.count() == 0 {
            return Ok(None);
        }
        let askers = [Some(rustix::thread::gettid()), publisher.map(Pid::from_child)].into_iter().flatten().collect();
        let apart = Self { askers, qemu, all };
        apart.set(&own, &others);
        Ok(Some(apart))
    }

    /// Threads may end meanwhile, which is no error.
    fn set(&self, own: &CpuSet, others: &CpuSet) {
        for asker in &self.askers {
            let _ = sched_setaffinity(Some(*asker), own);
        }
        for thread in threads(self.qemu) {
            let _ = sched_setaffinity(Some(thread), others);
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.set(&self.all, &self.all);
    }
}

fn threads(process: Pid) -> Vec<Pid> {
    let entries = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The one child of a process.
pub(crate) fn child_of(process: &Child) -> Result<Pid> {
    let path = format!("/proc/{0}/task/{0}/children", process.id());
    let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let child = children.split_whitespace().next().and_then(|child| child.parse().ok()).and_then(Pid::from_raw);
    child.with_context(|| format!("process {} has no child", process.id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn they_are_apart_and_then_as_before() {
        let start = || Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (mut publisher, mut qemu) = (start(), start());
        let cpus = |process: Option<&Child>| sched_getaffinity(process.map(Pid::from_child)).unwrap();
        let all = cpus(None);
        let apart = Apart::keep(Some(&publisher), Pid::from_child(&qemu)).unwrap();
        assert_eq!(apart.is_some(), all.count() > 1);
        if apart.is_some() {
            assert_eq!((cpus(None).count(), cpus(Some(&publisher))), (1, cpus(None)));
            assert_eq!(cpus(Some(&qemu)).count(), all.count() - 1);
            assert!((0..CpuSet::MAX_CPU).all(|cpu| !(cpus(None).is_set(cpu) && cpus(Some(&qemu)).is_set(cpu))));
        }
        drop(apart);
        assert_eq!([cpus(None), cpus(Some(&publisher)), cpus(Some(&qemu))], [all; 3]);
        for process in [&mut publisher, &mut qemu] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}
