// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example for tokio, at work.

use vmclock::mock::MockPage;
use vmclock::{Event, Notice};

#[path = "../examples/tokio.rs"]
mod example;

#[test]
fn events_are_awaited() {
    let page = MockPage::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut events = example::register(page.clock().events().expect("events")).expect("registered");
        // It happens while the task waits.
        let moment = std::time::Duration::from_millis(5);
        assert!(tokio::time::timeout(moment, example::next(&mut events)).await.is_err(), "nothing has happened");
        page.restore();
        let seen: Vec<_> = example::next(&mut events).await.expect("a notice").iter().collect();
        assert_eq!(seen, [Event::Disrupted { from: 1, to: 2 }, Event::Restored { from: 1, to: 2 }]);
        page.remove();
        assert!(matches!(example::next(&mut events).await.expect("a notice"), Notice::Vanished(_)));
        page.publish_again();
        assert!(matches!(example::next(&mut events).await.expect("a notice"), Notice::Returned(_)));
    });
}
