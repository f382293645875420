// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGHUP: the configuration is read again, and no page is touched for it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::Context;
use vmclock_host::event::Event;
use vmclock_host::page_file::FilePage;
use vmclock_host::rounds::Rounds;
use vmclock_host::service::pages::FilePages;
use vmclock_host::service::server::Server;
use vmclock_host::service::Service;
use vmclock_host::this_host::ThisHost;

use crate::cli::ServeArgs;
use crate::exit;

use super::config::{Config, Configuration, REFRESH};
use super::{group, on_signals};

/// A configuration that can be read again.
pub(super) struct Reload(Option<Loaded>);

struct Loaded {
    args: ServeArgs,
    path: PathBuf,
    config: Config,
    signal: UnixStream,
}

impl Reload {
    /// Of what was read at the start.
    pub(super) fn new(args: &ServeArgs, configuration: &mut Configuration) -> anyhow::Result<Self> {
        let Some((path, config)) = configuration.file.take() else { return Ok(Self(None)) };
        let path = std::path::absolute(&path).with_context(|| format!("{}: is no path", path.display()))?;
        let signal = on_signals(&[signal_hook::consts::SIGHUP])?;
        signal.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        Ok(Self(Some(Loaded { args: args.clone(), path, config, signal })))
    }

    pub(super) fn is_possible(&self) -> bool {
        self.0.is_some()
    }

    /// Readable once it was asked for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|loaded| loaded.signal.as_fd())
    }

    /// Whether it was asked for since this was last called, once or more often.
    pub(super) fn is_asked(&mut self) -> bool {
        self.0.as_mut().is_some_and(|loaded| loaded.signal.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0))
    }

    /// Reads it. What is wrong with it changes nothing.
    pub(super) fn perform(
        &mut self,
        service: &mut Service<ThisHost, FilePage, FilePages>,
        server: &mut Server,
        rounds: &mut Rounds,
    ) -> Event {
        let Some(loaded) = &mut self.0 else { return Event::Warning { text: "there is no configuration".into() } };
        match loaded.perform(service, server, rounds) {
            Ok(event) => event,
            Err(error) => Event::Warning { text: format!("the configuration stays as it was: {}", exit::text(&error)) },
        }
    }
}

impl Loaded {
    fn perform(
        &mut self,
        service: &mut Service<ThisHost, FilePage, FilePages>,
        server: &mut Server,
        rounds: &mut Rounds,
    ) -> anyhow::Result<Event> {
        let config = Config::read(&self.path)?;
        // All that can be wrong with it comes before anything is changed.
        let refresh = match self.args.refresh {
            Some(refresh) => refresh,
            None => config.refresh()?.unwrap_or(REFRESH),
        };
        let tai_offset = match self.args.tai_offset {
            Some(offset) => Some(offset),
            None => config.tai_offset()?,
        };
        config.check_values()?;
        let group = self.args.group.as_deref().or(config.group.as_deref());
        let number = group.map(group::number).transpose()?;
        server.set_group(number)?;
        rounds.set_refresh(refresh);
        service.publisher_mut().set_tai_offset(tai_offset);
        let fixed = config.differs_for_good(&self.config);
        let page = self.path.display();
        if fixed.is_empty() {
            self.config = config;
            return Ok(Event::Reloaded { text: format!("{page}: read again") });
        }
        Ok(Event::Reloaded {
            text: format!(
                "{page}: read again; of {}, what changed takes effect at the next start",
                fixed.join(" and ")
            ),
        })
    }
}
