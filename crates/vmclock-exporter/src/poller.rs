// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks the service: at each interval for the history, and when somebody wishes for a document that is too old.
//!
//! It is one thread, so that the service is never asked twice at once, however many clients there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use vmclock_host::service::client::{Client, ClientError};
use vmclock_host::service::protocol::{GuestState, SourceState, Tracking};

use crate::history::History;
use crate::metrics::{self, Format};
use crate::tally::Tally;
use crate::{locked, status, Log, Options, Report};

/// How long the service may take for all that it is asked at once.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How old a document may be.
const FRESH: Duration = Duration::from_secs(1);
/// How far back `/recent.json` goes, in milliseconds.
const RECENT_MS: u64 = 60_000;

/// What the service said at one time.
pub(crate) struct Answers {
    pub(crate) tracking: Tracking,
    pub(crate) sources: Vec<SourceState>,
    pub(crate) guests: Vec<GuestState>,
}

/// What can be wished for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Document {
    Metrics(Format),
    Status,
    History,
    Recent,
}

/// A document of at most a second ago.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// Whether it is what was wished for: not if the service did not answer, and it cannot be without.
    pub(crate) is_available: bool,
    pub(crate) body: Bytes,
}

/// A wish for a document.
pub(crate) struct Wish {
    pub(crate) document: Document,
    pub(crate) reply: oneshot::Sender<Served>,
}

/// Asks the service, and keeps what it said.
pub(crate) struct Poller {
    options: Options,
    log: Log,
    tally: Arc<Mutex<Tally>>,
    history: History,
    client: Option<Client>,
    /// How often the service did not answer.
    errors: u64,
    /// Why it did not last time.
    trouble: Option<String>,
    /// Connections that were closed for others.
    dropped: Arc<AtomicU64>,
    /// What it said last, or why it did not, and when.
    last: Option<(Instant, Result<Answers, String>)>,
    /// Made of that, or within the last second.
    documents: HashMap<Document, (Instant, Served)>,
    /// Tells one run from another.
    run: u64,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Poller {
    pub(crate) fn new(options: Options, tally: Arc<Mutex<Tally>>, log: Log) -> Self {
        let history = History::new(options.interval);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The low bits are those that differ.
        #[allow(clippy::cast_possible_truncation)]
        let run = since.as_nanos() as u64;
        Self {
            options,
            log,
            tally,
            history,
            client: None,
            errors: 0,
            trouble: None,
            dropped: Arc::default(),
            last: None,
            documents: HashMap::new(),
            run,
        }
    }

    /// How many connections were closed for others: counted by the server.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Until nobody can wish for anything any more.
    pub(crate) fn run(mut self, wishes: &Receiver<Wish>) {
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next {
                self.poll();
                next += self.options.interval;
                // A service that was slow is not asked again for what was missed.
                next = next.max(now);
            }
            match wishes.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(wish) => {
                    // Whoever wished may be gone.
                    let _ = wish.reply.send(self.document(wish.document));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Adds a point to the history. Guests may be many, and are not asked for.
    fn poll(&mut self) {
        let said = self.ask(|client, deadline| {
            let tracking = within(client, deadline, Client::tracking)?;
            Ok((tracking, within(client, deadline, Client::sources)?.sources))
        });
        let said = said.as_ref().ok().map(|(tracking, sources)| (tracking, sources.as_slice()));
        self.history.add(locked(&self.tally).now_ms(), said);
    }

    fn document(&mut self, document: Document) -> Served {
        if let Some((made, served)) = self.documents.get(&document) {
            if made.elapsed() < FRESH {
                return served.clone();
            }
        }
        let served = match document {
            Document::Metrics(format) => {
                self.refresh();
                let answers = self.last.as_ref().and_then(|(_, answers)| answers.as_ref().ok());
                let own = metrics::Own { errors: self.errors, dropped: self.dropped.load(Ordering::Relaxed) };
                let text = metrics::render(answers, &locked(&self.tally), own, self.options.most_guests, format);
                Served { is_available: true, body: text.into() }
            }
            Document::Status => {
                self.refresh();
                let status = match &self.last {
                    Some((_, Ok(answers))) => status::status(answers).map_err(|error| error.to_string()),
                    Some((_, Err(reason))) => Err(reason.clone()),
                    None => Err("the service was not asked yet".into()),
                };
                match status {
                    Ok(status) => json(true, &status),
                    Err(reason) => json(false, &status::unreachable(&reason)),
                }
            }
            Document::History => self.history(0),
            Document::Recent => {
                let now_ms = locked(&self.tally).now_ms();
                self.history(now_ms.saturating_sub(RECENT_MS))
            }
        };
        self.documents.insert(document, (Instant::now(), served.clone()));
        served
    }

    fn history(&self, since_ms: u64) -> Served {
        json(true, &status::history(self.run, &self.history, &locked(&self.tally), since_ms))
    }

    /// Asks for all that documents have, unless that was done just now.
    fn refresh(&mut self) {
        if self.last.as_ref().is_some_and(|(asked, _)| asked.elapsed() < FRESH) {
            return;
        }
        let answers = self.ask(|client, deadline| {
            Ok(Answers {
                tracking: within(client, deadline, Client::tracking)?,
                sources: within(client, deadline, Client::sources)?.sources,
                guests: within(client, deadline, Client::guests)?.guests,
            })
        });
        if let Ok(Answers { guests, .. }) = &answers {
            locked(&self.tally).settle(guests.iter().map(|guest| guest.guest.as_str()));
        }
        self.last = Some((Instant::now(), answers));
    }

    /// Asks the service, on a new connection where there is none any more. Reports once that it does not answer, and
    /// once that it does again.
    fn ask<T>(&mut self, mut what: impl FnMut(&mut Client, Instant) -> Result<T, ClientError>) -> Result<T, String> {
        let deadline = Instant::now() + TIMEOUT;
        // The service may have been restarted since.
        let kept =
            self.client.take().and_then(|mut client| what(&mut client, deadline).ok().map(|said| (client, said)));
        let asked = kept.map_or_else(
            || {
                let mut client = Client::connect(&self.options.socket)?;
                what(&mut client, deadline).map(|said| (client, said))
            },
            Ok,
        );
        let (trouble, result) = match asked {
            Ok((client, said)) => {
                self.client = Some(client);
                (None, Ok(said))
            }
            Err(error) => {
                self.errors += 1;
                (Some(error.to_string()), Err(error.to_string()))
            }
        };
        if trouble != self.trouble {
            (self.log)(&match &trouble {
                Some(reason) => Report::Unreachable { reason: reason.clone() },
                None => Report::Reachable,
            });
            self.trouble = trouble;
        }
        result
    }
}

/// Asks one thing, in what is left of the time.
fn within<T>(
    client: &mut Client,
    deadline: Instant,
    what: impl FnOnce(&mut Client) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    // Zero would be for ever.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    client.set_timeout(Some(left))?;
    what(client)
}

fn json(is_available: bool, value: &Value) -> Served {
    Served { is_available, body: format!("{value}\n").into() }
}
