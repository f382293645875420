// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs in other languages, which measure themselves: a round for each line that they get, so that their rounds
//! are in turn with ours.
//!
//! The program's last argument is the page. It prints a JSON list of `[key, what]`, the last of them its language's own
//! clock, and then, for each line on its standard input, a JSON list of nanoseconds a call.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{ensure, Context};

use crate::Peer;

pub(crate) struct Other {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) peers: Vec<Peer>,
}

impl Other {
    pub(crate) fn start(command: &[String], page: &Path) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("a command has a name")?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg(page)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let output = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut other = Self { child, output, peers: Vec::new() };
        let names: Vec<(String, String)> = serde_json::from_str(&other.line()?)?;
        let own_clock = names.last().map(|(key, _)| key.clone());
        let peer = |(key, what)| Peer { own_clock: own_clock.clone(), ..Peer::new(key, what) };
        other.peers = names.into_iter().map(peer).collect();
        Ok(other)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(
            self.output.read_line(&mut line)? > 0,
            "a program in another language ended early: see what it says above"
        );
        Ok(line)
    }

    pub(crate) fn round(&mut self) -> anyhow::Result<()> {
        self.child.stdin.as_mut().context("its standard input")?.write_all(b"\n")?;
        let costs: Vec<f64> = serde_json::from_str(&self.line()?)?;
        ensure!(costs.len() == self.peers.len(), "{} numbers for {} calls", costs.len(), self.peers.len());
        for (peer, cost) in self.peers.iter_mut().zip(costs) {
            peer.cost = peer.cost.min(cost);
        }
        Ok(())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
