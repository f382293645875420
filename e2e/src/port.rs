// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's program, at the other end of a virtio serial port: a number and words there, a JSON value with that
//! number back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::patience::{connect, is_timeout, TimedOut, PATIENCE};

/// A question to a guest, to which one answer belongs. A guest that was saved meanwhile gives it to whoever restores
/// it, each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    number: u64,
}

impl Question {
    /// One that was never asked before, of any guest: an answer that comes late is no other question's.
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

pub(crate) struct Port {
    reader: BufReader<UnixStream>,
    line: String,
}

impl Port {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = connect(socket, PATIENCE)?;
        Ok(Self { reader: BufReader::new(stream), line: String::new() })
    }

    /// Asks something, without waiting for the answer.
    pub(crate) fn say(&mut self, words: &str) -> Result<Question> {
        let question = Question::new();
        writeln!(self.reader.get_mut(), "{} {words}", question.number)
            .with_context(|| format!("cannot say {words:?} to the guest"))?;
        Ok(question)
    }

    /// The guest's answer to a question. Answers to earlier ones are what nobody waits for any more.
    pub(crate) fn answer(&mut self, question: Question, patience: Duration) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let mut line = self.line(deadline, patience)?;
            match line["to"].as_u64() {
                Some(number) if number == question.number => {
                    return match line.get("error") {
                        Some(error) => bail!("in the guest: {error}"),
                        None => Ok(line["ok"].take()),
                    };
                }
                Some(_) => {}
                None => bail!("the guest says {line}, and gives no answer: it has booted again"),
            }
        }
    }

    /// The first words after a boot.
    pub(crate) fn greeting(&mut self, patience: Duration) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(deadline, patience)?;
            if line.get("ready").is_some() {
                return Ok(line);
            }
        }
    }

    fn line(&mut self, deadline: Instant, patience: Duration) -> Result<Value> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TimedOut(format!("the guest has said nothing for {patience:?}")).into());
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
            match self.reader.read_line(&mut self.line) {
                Ok(0) => bail!("QEMU has closed the guest's port"),
                Ok(_) => {
                    let line = std::mem::take(&mut self.line);
                    return serde_json::from_str(&line).with_context(|| format!("the guest says {line:?}"));
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the guest's port is gone"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_answer_that_comes_late_is_not_the_next_questions() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("port");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut port = Port::connect(&socket).unwrap();
        let (mut guest, _) = listener.accept().unwrap();
        let heard = |guest: &UnixStream| -> u64 {
            let mut line = String::new();
            BufReader::new(guest).read_line(&mut line).unwrap();
            line.split(' ').next().unwrap().parse().unwrap()
        };
        let first = port.say("first").unwrap();
        let first_number = heard(&guest);
        assert!(port.answer(first, Duration::from_millis(1)).unwrap_err().is::<TimedOut>());

        let second = port.say("second").unwrap();
        let second_number = heard(&guest);
        writeln!(guest, r#"{{"to":{first_number},"ok":"late"}}"#).unwrap();
        writeln!(guest, r#"{{"to":{second_number},"ok":"right"}}"#).unwrap();
        assert_eq!(port.answer(second, PATIENCE).unwrap(), "right");

        // A saved guest that is restored answers again.
        writeln!(guest, r#"{{"to":{second_number},"ok":"again"}}"#).unwrap();
        assert_eq!(port.answer(second, PATIENCE).unwrap(), "again");

        writeln!(guest, r#"{{"ready":"7.3"}}"#).unwrap();
        assert!(port.answer(second, PATIENCE).unwrap_err().to_string().contains("booted again"));
        writeln!(guest, "{{\"to\":{first_number},\"ok\":0}}\n{{\"ready\":\"7.3\"}}").unwrap();
        assert_eq!(port.greeting(PATIENCE).unwrap()["ready"], "7.3");
    }
}
