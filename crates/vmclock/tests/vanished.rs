// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page whose file is removed, replaced, cut or overwritten while it is open: readers find out, and events continue
//! with the new page without missing what happened in between.

mod common;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use common::{good_page, open_for_writing, region, writer_of, Folder};
use vmclock::{ClockStatus, Event, Events, Loss, Notice, OpenError, OpenOptions, Snapshot, Vanished, VmClock};

const LIMIT: Duration = Duration::from_secs(10);

/// Mapped, and through system calls.
fn ways() -> [OpenOptions; 2] {
    [OpenOptions::new(), OpenOptions::new().map(false)]
}

/// A new file at the path, as a publisher makes it: complete before it has its name.
fn replace(path: &Path, page: &Snapshot) {
    let new = path.with_extension("new");
    std::fs::write(&new, region(page)).expect("written");
    std::fs::rename(&new, path).expect("renamed");
}

type Lose = fn(&Path);
type IsExpected = fn(Loss) -> bool;

fn losses() -> [(Lose, IsExpected); 4] {
    [
        (|path| std::fs::remove_file(path).expect("removed"), |loss| loss == Loss::Removed),
        (|path| replace(path, &good_page()), |loss| loss == Loss::Replaced),
        (|path| open_for_writing(path).set_len(100).expect("cut"), |loss| loss == Loss::Cut { len: 100 }),
        (|path| std::fs::write(path, [b'x'; 4096]).expect("written"), |loss| matches!(loss, Loss::Overwritten(_))),
    ]
}

fn expect(events: &mut Events) -> Notice {
    events.wait(Some(LIMIT)).expect("no error").expect("a notice in time")
}

fn expect_vanished(events: &mut Events) -> Vanished {
    match expect(events) {
        Notice::Vanished(vanished) => vanished,
        other => panic!("not vanished: {other:?}"),
    }
}

/// The events of the new page, and whatever was written to the old one before.
fn until_returned(events: &mut Events) -> Vec<Event> {
    loop {
        match expect(events) {
            Notice::Returned(changes) => return changes.iter().collect(),
            Notice::Changed(_) => {}
            other => panic!("twice: {other:?}"),
        }
    }
}

#[test]
fn a_clock_says_how_its_page_was_lost() {
    for options in ways() {
        for (lose, is_expected) in losses() {
            let folder = Folder::with(&region(&good_page()));
            let clock = options.open(folder.path()).expect("a page");
            assert_eq!(clock.check(), Ok(()));
            lose(&folder.path());
            let vanished = clock.check().expect_err("lost");
            assert!(is_expected(vanished.loss), "{vanished:?}");
            assert_eq!(vanished.path, folder.path());
            let text = vanished.to_string();
            assert!(
                text.contains(&folder.path().display().to_string()) && text.contains("open the clock again"),
                "{text}"
            );
        }
    }
}

#[test]
fn what_is_still_there_has_not_vanished() {
    for options in ways() {
        let folder = Folder::with(&region(&good_page()));
        let path = folder.path();
        let mut writer = writer_of(&path);
        let clock = options.open(&path).expect("a page");
        // Updates, another link to the file, and a name that was given to nothing else.
        writer.update(|page| page.disruption_marker = 1);
        assert_eq!(clock.check(), Ok(()));
        let link = path.with_extension("link");
        std::fs::hard_link(&path, &link).expect("linked");
        assert_eq!(clock.check(), Ok(()));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(clock.check(), Ok(()), "the file has another name; its publisher will retire the page");
        std::fs::rename(&link, &path).expect("renamed");
        assert_eq!(clock.check(), Ok(()));
        // A page in the middle of an update is still a page.
        std::os::unix::fs::FileExt::write_all_at(&open_for_writing(&path), &[9, 0, 0, 0], 0x0c).expect("written");
        assert_eq!(clock.check(), Ok(()));
    }
}

#[test]
fn a_file_without_a_name_has_not_vanished() {
    let folder = Folder::with(&region(&good_page()));
    let file = open_for_writing(&folder.path());
    std::fs::remove_file(folder.path()).expect("removed");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let clock = VmClock::open_at(path).expect("a page");
    assert_eq!(clock.check(), Ok(()));
    file.set_len(0).expect("cut");
    assert_eq!(clock.check().map_err(|vanished| vanished.loss), Err(Loss::Cut { len: 0 }));
}

#[test]
fn a_relative_path_is_that_of_when_it_was_opened() {
    let folder = Folder::with(&region(&good_page()));
    let here = std::env::current_dir().expect("somewhere");
    let up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(folder.path().strip_prefix("/").expect("absolute"));
    let clock = VmClock::open_at(&relative).expect("a page");
    assert!(clock.path().is_absolute());
    assert_eq!(clock.check(), Ok(()));
}

#[test]
fn events_continue_with_the_page_that_returns() {
    for options in ways() {
        for (lose, is_expected) in losses() {
            let folder = Folder::with(&region(&good_page()));
            let clock = options.open(folder.path()).expect("a page");
            let mut events = clock.events().expect("events");
            assert_eq!(events.wait(Some(Duration::ZERO)), Ok(None));
            lose(&folder.path());
            let vanished = expect_vanished(&mut events);
            assert!(is_expected(vanished.loss), "{vanished:?}");

            // A new publisher: another marker and generation, although no page changed.
            let was = good_page();
            replace(
                &folder.path(),
                &was.with(|page| {
                    page.disruption_marker = 2;
                    page.vm_generation_counter = 3;
                }),
            );
            let disrupted = Event::Disrupted { from: was.disruption_marker, to: 2 };
            let restored = Event::Restored { from: was.vm_generation_counter, to: 3 };
            assert_eq!(until_returned(&mut events), [disrupted, restored], "after {}", vanished.loss);

            // Its events, and its time.
            writer_of(&folder.path()).update(|page| page.disruption_marker = 4);
            assert_eq!(expect(&mut events).iter().collect::<Vec<_>>(), [Event::Disrupted { from: 2, to: 4 }]);
            assert_eq!(events.clock().now().expect("time").disruption_marker(), 4);
            assert_eq!(events.clock().check(), Ok(()));
            assert_eq!(events.clock().is_mapped(), clock.is_mapped(), "opened with the same options");
            assert!(clock.check().is_err(), "the old clock has the old page");
            assert_eq!(clock.reopen().expect("there").now().expect("time").disruption_marker(), 4);
        }
    }
}

#[test]
fn what_is_not_a_page_yet_is_waited_for() {
    let folder = Folder::with(&region(&good_page()));
    let path = folder.path();
    let mut events = VmClock::open_at(&path).expect("a page").events().expect("events");
    events.set_interval(Duration::from_micros(100)).expect("settable");
    std::fs::remove_file(&path).expect("removed");
    expect_vanished(&mut events);
    let moment = Some(Duration::from_millis(5));
    assert_eq!(events.wait(moment), Ok(None), "there is none");
    assert!(matches!(events.clock().reopen(), Err(OpenError::NoFile { .. })));
    std::fs::create_dir(&path).expect("made");
    assert_eq!(events.wait(moment), Ok(None), "there is a folder");
    std::fs::remove_dir(&path).expect("removed");
    std::fs::write(&path, [0; 4096]).expect("written");
    assert_eq!(events.wait(moment), Ok(None), "there are zeros");
    std::fs::write(&path, region(&good_page())).expect("written");
    assert_eq!(until_returned(&mut events), []);
}

#[test]
fn what_is_still_written_to_a_removed_page_is_reported() {
    for options in ways() {
        let folder = Folder::with(&region(&good_page()));
        let mut writer = writer_of(&folder.path());
        let mut events = options.open(folder.path()).expect("a page").events().expect("events");
        std::fs::remove_file(folder.path()).expect("removed");
        expect_vanished(&mut events);
        // Its publisher notices too, and retires the page that it has mapped.
        writer.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
        let (good, bad) = (ClockStatus::SYNCHRONIZED, ClockStatus::UNRELIABLE);
        assert_eq!(expect(&mut events).iter().collect::<Vec<_>>(), [Event::Status { from: good, to: bad }]);
        replace(&folder.path(), &good_page().with(|page| page.disruption_marker = 2));
        let disrupted = Event::Disrupted { from: good_page().disruption_marker, to: 2 };
        assert_eq!(until_returned(&mut events), [disrupted, Event::Status { from: bad, to: good }]);
    }
}

#[test]
fn a_removed_page_in_the_middle_of_an_update_is_not_waited_for() {
    for options in ways() {
        let folder = Folder::with(&region(&good_page()));
        let path = folder.path();
        let file = open_for_writing(&path);
        let clock = options.max_wait(Duration::from_secs(24 * 3600)).open(&path).expect("a page");
        let mut events = clock.events().expect("events");
        std::fs::remove_file(&path).expect("removed");
        expect_vanished(&mut events);
        // Its publisher is killed; this update never ends.
        std::os::unix::fs::FileExt::write_all_at(&file, &[9, 0, 0, 0], 0x0c).expect("written");
        assert_eq!(events.wait(Some(Duration::from_millis(30))), Ok(None));
        replace(&path, &good_page());
        assert_eq!(until_returned(&mut events), []);
    }
}

#[test]
fn the_file_descriptor_wakes_an_event_loop_when_the_page_vanishes_and_returns() {
    let folder = Folder::with(&region(&good_page()));
    let mut events = VmClock::open_at(folder.path()).expect("a page").events().expect("events");
    let mut notice = || loop {
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&events.as_fd(), rustix::event::PollFlags::IN)],
            Some(&limit),
        );
        assert_eq!(ready, Ok(1), "nothing within {LIMIT:?}");
        if let Some(notice) = events.wait(Some(Duration::ZERO)).expect("no error") {
            break notice;
        }
    };
    std::fs::remove_file(folder.path()).expect("removed");
    assert!(matches!(notice(), Notice::Vanished(_)));
    replace(&folder.path(), &good_page());
    assert!(matches!(notice(), Notice::Returned(_)));
}
