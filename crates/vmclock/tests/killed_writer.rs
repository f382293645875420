// SPDX-License-Identifier: MIT OR Apache-2.0
//! A writer killed by SIGKILL, hundreds of times, wherever it happens to be: readers never see a torn page, and the
//! next writer takes over.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{good_page, region, writer_of, Folder, Mapped};
use vmclock::{OpenOptions, ReadError, Snapshot, VmClock};
use vmclock_core::page::{TakenOver, Writer};

const KILLS: u32 = 400;
const CHILD: &str = "VMCLOCK_TEST_WRITER_OF";

/// A page whose every field follows from one number, so that a mixture of two gives itself away.
fn page_of(number: u64) -> Snapshot {
    good_page().with(|page| {
        page.disruption_marker = number;
        page.counter_value = number.wrapping_mul(3);
        page.counter_period_esterror_rate_frac_sec = number.wrapping_mul(5);
        page.time_esterror_nanosec = number.wrapping_mul(7);
        page.time_maxerror_nanosec = !number;
        page.time_frac_sec = number.rotate_left(17);
        page.vm_generation_counter = number ^ 0xaaaa_aaaa_aaaa_aaaa;
    })
}

fn assert_whole(page: &Snapshot) {
    let expected = page_of(page.disruption_marker).with(|next| next.seq_count = page.seq_count);
    // These two are this machine's own.
    let expected = expected.with(|next| next.counter_period_frac_sec = page.counter_period_frac_sec);
    assert_eq!(*page, expected, "a torn page");
}

/// Not a test of its own: what the child process does, until it is killed.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let (_, mut writer) = Writer::take_over(Mapped::of(&path), 4096).expect("a page, odd or even");
    let mut number = writer.contents().disruption_marker;
    loop {
        number = number.wrapping_add(1);
        writer.update(|page| *page = page_of(number).with(|next| next.seq_count = page.seq_count));
    }
}

fn spawn_writer(path: &Path) -> Child {
    let program = std::env::current_exe().expect("this test");
    let mut command = Command::new(program);
    command.args(["--exact", "writer_process", "--nocapture"]).env(CHILD, path);
    command.stdout(std::process::Stdio::null()).spawn().expect("a child process")
}

#[test]
fn a_killed_writer_leaves_a_page_that_the_next_takes_over() {
    let folder = Folder::with(&region(&page_of(1)));
    let path = folder.path();
    let clock = VmClock::open_at(&path).expect("a page");
    let hasty = OpenOptions::new().max_wait(Duration::from_millis(1)).open(&path).expect("a page");
    let (mut odd, mut even, mut read) = (0, 0, 0);
    for kill in 0..KILLS {
        let before = clock.snapshot().expect("not in an update").seq_count;
        let mut writer = spawn_writer(&path);
        // Until it writes, and then for a different while each time.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut updates = 0;
        while updates < 20 + kill % 50 {
            assert!(Instant::now() < deadline, "the writer does not write");
            match clock.snapshot() {
                Ok(page) => {
                    assert_whole(&page);
                    updates += u32::from(page.seq_count != before);
                    read += 1;
                }
                // It was put to sleep in the middle of an update.
                Err(error) => assert!(matches!(error, ReadError::Busy(_)), "{error:?}"),
            }
        }
        writer.kill().expect("it is ours");
        writer.wait().expect("it is ours");

        let left = Mapped::of(&path).sequence();
        let (found, mut next) = Writer::take_over(Mapped::of(&path), 4096).expect("a page");
        if left & 1 == 0 {
            even += 1;
            assert_eq!(found, TakenOver::Static);
            assert_whole(&clock.snapshot().expect("not in an update"));
        } else {
            odd += 1;
            assert_eq!(found, TakenOver::Interrupted);
            assert!(matches!(hasty.now(), Err(ReadError::Busy(busy)) if busy.seq_count == left));
        }
        let marker = 1_000_000_000 * u64::from(kill + 2);
        next.update(|page| *page = page_of(marker).with(|next| next.seq_count = page.seq_count));
        let page = clock.snapshot().expect("repaired");
        assert_whole(&page);
        assert_eq!((page.disruption_marker, page.seq_count), (marker, (left | 1).wrapping_add(1)));
        assert_eq!(clock.epoch().expect("repaired").disruption_marker, marker, "the disruption is seen");
    }
    println!("{KILLS} kills: {odd} left the page odd, {even} even; {read} snapshots meanwhile, none torn");
    assert!(odd > 0 && even > 0, "{odd} odd and {even} even: the kills did not hit updates and pauses alike");
    drop(writer_of(&path));
}
