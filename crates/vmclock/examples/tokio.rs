// SPDX-License-Identifier: MIT OR Apache-2.0
//! The events of a machine in an async program: `cargo run -p vmclock --example tokio -- /run/vmclock/page`.
//!
//! `Events` is a file descriptor, which tokio waits for; nothing blocks, and no thread is needed.

use std::io;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use vmclock::{Event, Events, Notice, VmClock};

/// For tokio to wait for.
pub(crate) fn register(events: Events) -> io::Result<AsyncFd<Events>> {
    // SAFETY: the file descriptor of `Events` is its own, and the same from its beginning to its end.
    Ok(unsafe { AsyncFd::register(events) }?)
}

/// The next notice.
pub(crate) async fn next(events: &mut AsyncFd<Events>) -> io::Result<Notice> {
    loop {
        let mut ready = events.readable_mut().await?;
        let notice = ready.get_inner_mut().wait(Duration::ZERO.into()).map_err(io::Error::other)?;
        match notice {
            // There may be another.
            Some(notice) => return Ok(notice),
            None => ready.clear_ready(),
        }
    }
}

#[allow(dead_code)] // the test takes only `next`
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock = std::env::args_os().nth(1).map_or_else(VmClock::open, VmClock::open_at)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut events = register(clock.events()?)?;
        loop {
            let notice = next(&mut events).await?;
            if let Notice::Vanished(vanished) = &notice {
                println!("{vanished}");
            }
            for event in notice.iter() {
                println!("{event}");
                if let Event::Restored { .. } = event {
                    println!("renew what must be unique: keys, tokens, connections");
                }
            }
        }
    })
}
