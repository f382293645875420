// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever is at the path: no panic, no signal, no long wait, no made-up time, and an error that names what is wrong.

mod common;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{good_page, open_for_writing, region, writer_of, Folder};
use vmclock::{
    ClockStatus, CounterId, LeapIndicator, Loss, Notice, OpenError, OpenOptions, ReadError, Smearing, VmClock,
};
use vmclock_core::abi::{ParseError, STRUCTURE_LEN};

/// The wait that is asked for, and what a busy machine may add to it.
const WAIT: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(5);

/// Mapped, and through system calls.
fn ways() -> [OpenOptions; 2] {
    [OpenOptions::new(), OpenOptions::new().map(false)]
}

fn open_error(path: &Path, options: &OpenOptions) -> OpenError {
    let started = Instant::now();
    let error = options.open(path).expect_err("nothing there that can be opened");
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text:?} does not name {}", path.display());
    error
}

/// Calls everything that a clock has.
fn exercise(clock: &VmClock) {
    let started = Instant::now();
    for reading in [clock.now(), clock.now_unordered()].into_iter().flatten() {
        let _ = (reading.interval(), reading.tai_interval(), reading.utc(), reading.system_time(), reading.timespec());
        let _ = (reading.smeared_utc(Smearing::NoonLinear), reading.smeared_utc(Smearing::UtcSls));
        let _ = (format!("{reading:?}"), reading.utc().map(|utc| utc.to_string()));
        let _ = (reading.smeared_utc_by_hint(), reading.monotonic(), reading.is_before(&reading), reading.epoch());
        assert!(reading.status().gives_time());
    }
    let _ = (clock.epoch(), clock.snapshot(), clock.cross_timestamp());
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
}

#[test]
fn what_is_too_short_is_named_with_its_length() {
    let whole = region(&good_page());
    for options in ways() {
        for len in 0..STRUCTURE_LEN {
            let folder = Folder::with(&whole[..len]);
            match open_error(&folder.path(), &options) {
                OpenError::NotAPage {
                    error: ParseError::TooShort { len: found } | ParseError::Size { len: found, .. },
                    ..
                } => {
                    assert_eq!(found, len);
                }
                other => panic!("{len} bytes: {other:?}"),
            }
        }
        let exactly = Folder::with(&whole[..STRUCTURE_LEN]);
        exercise(&options.open(exactly.path()).expect("a whole structure"));
    }
}

#[test]
fn what_is_not_a_page_is_named_with_what_it_is() {
    for options in ways() {
        let zeros = Folder::with(&[0; 4096]);
        let error = open_error(&zeros.path(), &options);
        assert!(matches!(error, OpenError::NotAPage { error: ParseError::Magic { found: 0 }, .. }), "{error:?}");

        let ones = Folder::with(&[0xff; 4096]);
        let error = open_error(&ones.path(), &options);
        assert!(matches!(error, OpenError::NotAPage { error: ParseError::Magic { found: u32::MAX }, .. }), "{error:?}");

        let mut page = good_page();
        page.version = 2;
        let error = open_error(&Folder::with(&region(&page)).path(), &options);
        assert!(matches!(error, OpenError::NotAPage { error: ParseError::Version { found: 2 }, .. }), "{error:?}");

        page = good_page();
        page.size = 15;
        let error = open_error(&Folder::with(&region(&page)).path(), &options);
        assert!(matches!(error, OpenError::NotAPage { error: ParseError::Size { size: 15, .. }, .. }), "{error:?}");
    }
}

#[test]
fn what_is_not_a_file_is_named_with_its_kind() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    for options in ways() {
        let kind = |path: &Path| match open_error(path, &options) {
            OpenError::WrongKind { kind, .. } => kind,
            other => panic!("{}: {other:?}", path.display()),
        };
        assert_eq!(kind(folder.path()), "directory");
        assert_eq!(kind(&fifo), "FIFO");
        assert_eq!(kind(&socket), "socket");
        open_error(Path::new("/dev/null"), &options);
        open_error(Path::new("/dev/zero"), &options);
        let missing = open_error(&folder.path().join("missing"), &options);
        assert!(matches!(missing, OpenError::NoFile { .. }), "{missing:?}");
        assert!(!missing.to_string().contains("ACPI") && missing.to_string().contains("vmclock serve"), "{missing}");
        let missing = open_error(Path::new("/dev/no-such-vmclock"), &options);
        assert!(matches!(missing, OpenError::NoDevice { .. } | OpenError::NoDriver { .. }), "{missing:?}");
        let missing = open_error(Path::new("/dev/shm/no-such-page"), &options);
        assert!(matches!(missing, OpenError::NoFile { .. }), "{missing:?}");
    }
}

#[test]
fn advice_where_reading_is_not_permitted_fits_what_is_there() {
    let advice = |path: &str| OpenError::Permission { path: path.into() }.to_string();
    assert!(advice("/dev/vmclock0").contains("udev"));
    let file = advice("/run/vmclock/page");
    assert!(file.contains("chmod a+r /run/vmclock/page") && !file.contains("device"), "{file}");
}

#[test]
fn random_bytes_are_harmless() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let options = OpenOptions::new().max_wait(Duration::ZERO);
    let mut gave_time = 0;
    for round in 0..600 {
        let mut bytes: Vec<u8> = (0..4096 / 8).flat_map(|_| random().to_le_bytes()).collect();
        // A third is all random; a third has a header; a third is a page with a random field or two.
        if round % 3 != 0 {
            bytes[..16].copy_from_slice(&region(&good_page())[..16]);
        }
        if round % 3 == 2 {
            bytes = region(&good_page());
            for _ in 0..=random() % 2 {
                let at = 8 * (2 + usize::try_from(random() % 12).expect("small"));
                bytes[at..at + 8].copy_from_slice(&random().to_le_bytes());
            }
        }
        let folder = Folder::with(&bytes);
        for options in [options.clone(), options.clone().map(false)] {
            match options.open(folder.path()) {
                Ok(clock) => {
                    exercise(&clock);
                    gave_time += u32::from(clock.now().is_ok());
                }
                Err(error) => assert!(error.to_string().contains("page"), "{error}"),
            }
        }
    }
    assert!(gave_time > 50, "only {gave_time} of the pages gave time: the test tests nothing");
}

#[test]
fn every_field_at_its_extremes() {
    let mut cases = 0;
    for offset in (0..STRUCTURE_LEN).filter(|offset| !(0x0c..0x10).contains(offset)) {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = region(&good_page());
            // The whole rest of the field's word: that reaches all extremes of all widths.
            let end = (offset / 8 + 1) * 8;
            bytes[offset..end].fill(value);
            bytes[0x0c..0x10].fill(0);
            let folder = Folder::with(&bytes);
            for options in ways() {
                if let Ok(clock) = options.open(folder.path()) {
                    exercise(&clock);
                }
                cases += 1;
            }
        }
    }
    println!("{cases} pages with a field at an extreme");
}

#[test]
fn a_page_that_stays_odd_is_busy_and_then_recovers() {
    let mut updating = good_page();
    updating.seq_count = 7;
    let folder = Folder::with(&region(&updating));
    for options in ways() {
        let started = Instant::now();
        let error = open_error(&folder.path(), &options);
        assert!(matches!(error, OpenError::Busy { error, .. } if error.seq_count == 7), "{error:?}");
        assert!(error.to_string().contains("odd"), "{error}");
        assert!(started.elapsed() >= WAIT, "gave up before the wait was over");
    }
    for options in ways() {
        let folder = Folder::with(&region(&good_page()));
        let clock = options.open(folder.path()).expect("a good page");
        let mut bytes = region(&good_page());
        std::os::unix::fs::FileExt::write_all_at(&open_for_writing(&folder.path()), &[9, 0, 0, 0], 0x0c)
            .expect("written");
        assert!(matches!(clock.now(), Err(ReadError::Busy(busy)) if busy.seq_count == 9), "{:?}", clock.now());
        assert!(clock.epoch().is_err() && clock.snapshot().is_err());
        bytes[0x0c] = 10;
        std::os::unix::fs::FileExt::write_all_at(&open_for_writing(&folder.path()), &bytes[..16], 0).expect("written");
        clock.now().expect("the writer finished");
    }
}

#[test]
fn a_page_that_never_stops_changing_costs_a_bounded_wait() {
    let folder = Folder::with(&region(&good_page()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = writer_of(&folder.path());
            while !stop.load(Ordering::Relaxed) {
                writer.update(|page| page.time_esterror_nanosec = page.time_esterror_nanosec.wrapping_add(1));
            }
        });
        for options in ways() {
            for _ in 0..50 {
                let started = Instant::now();
                match options.open(folder.path()) {
                    Ok(clock) => exercise(&clock),
                    Err(error) => assert!(matches!(error, OpenError::Busy { .. }), "{error:?}"),
                }
                assert!(started.elapsed() < LIMIT);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// After the file was cut to `len` bytes, a clock that had it open must not give a time that the page never gave.
fn check_cut(clock: &VmClock, len: usize) {
    let vanished = |error: ReadError| matches!(error, ReadError::Vanished { len: found } if found == len as u64);
    for _ in 0..3 {
        match clock.now() {
            Ok(reading) => assert!(len >= 0x68, "{len} bytes gave {reading:?}"),
            Err(error) => assert!(vanished(error), "{len} bytes: {error:?}"),
        }
        match clock.snapshot() {
            Ok(page) => panic!("{len} bytes: {page:?}"),
            Err(error) => assert!(vanished(error), "{len} bytes: {error:?}"),
        }
        match clock.epoch() {
            Ok(epoch) => assert!(len > 0x68, "{len} bytes gave {epoch:?}"),
            Err(error) => assert!(vanished(error), "{len} bytes: {error:?}"),
        }
    }
}

#[test]
fn a_file_cut_short_under_the_mapping_gives_no_wrong_time() {
    for options in ways() {
        for len in 0..STRUCTURE_LEN {
            let folder = Folder::with(&region(&good_page()));
            let clock = options.open(folder.path()).expect("a good page");
            let before = clock.now().expect("time");
            open_for_writing(&folder.path()).set_len(len as u64).expect("cut");
            check_cut(&clock, len);
            // Repaired by its owner: a mapping that was lost stays lost, and every reading of it is an error.
            std::fs::write(folder.path(), region(&good_page())).expect("written");
            match clock.now() {
                Ok(after) => assert_eq!(after.epoch(), before.epoch()),
                Err(error) => assert!(matches!(error, ReadError::NotAPage(_)), "{error:?}"),
            }
            options.open(folder.path()).expect("opened anew").now().expect("time again");
        }
    }
}

#[test]
fn readers_survive_the_file_going_away() {
    let folder = Folder::with(&region(&good_page()));
    let clock = VmClock::open_at(folder.path()).expect("a good page");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(reading) = clock.now() {
                        assert_eq!(reading.disruption_marker(), good_page().disruption_marker);
                        assert!(reading.max_error_nanos() >= Some(0x0102_0304), "{reading:?}");
                    }
                }
            });
        }
        let mut events = clock.events().expect("events");
        open_for_writing(&folder.path()).set_len(0).expect("cut");
        let vanished = loop {
            match events.wait(Some(LIMIT)).expect("no error: the page vanished") {
                Some(Notice::Vanished(vanished)) => break vanished,
                Some(_) => {}
                None => panic!("no notice within {LIMIT:?}"),
            }
        };
        assert_eq!(vanished.loss, Loss::Cut { len: 0 });
        stop.store(true, Ordering::Relaxed);
    });
}

type Change = fn(&mut vmclock::Snapshot, CounterId);

#[test]
fn a_page_for_another_cpu_and_a_page_without_time_give_none() {
    let other =
        if vmclock_core::counter::ID == CounterId::X86_TSC { CounterId::ARM_CNTVCT } else { CounterId::X86_TSC };
    let changes: [(Change, &str); 8] = [
        (|page, other| page.counter_id = other, "counter"),
        (|page, _| page.counter_id = CounterId::NONE, "no counter"),
        (|page, _| page.clock_status = ClockStatus::UNKNOWN, "unknown"),
        (|page, _| page.clock_status = ClockStatus::INITIALIZING, "initializing"),
        (|page, _| page.clock_status = ClockStatus(200), "200"),
        (|page, _| page.counter_period_frac_sec = 0, "period is 0"),
        (|page, _| page.counter_period_shift = 128, "128"),
        (|page, _| page.time_type = vmclock::TimeType::INVALID_SMEARED, "smeared"),
    ];
    for (change, word) in changes {
        let mut page = good_page();
        change(&mut page, other);
        let folder = Folder::with(&region(&page));
        for options in ways() {
            let clock = options.open(folder.path()).expect("a page in order");
            let error = clock.now().expect_err("no time");
            assert!(matches!(error, ReadError::NoTime(_)), "{error:?}");
            assert!(error.to_string().contains(word), "{error} does not say {word:?}");
            clock.epoch().expect("marker and generation all the same");
        }
    }
    let mut page = good_page();
    page.leap_indicator = LeapIndicator(77);
    let folder = Folder::with(&region(&page));
    let reading = VmClock::open_at(folder.path()).expect("a page").now().expect("time");
    assert_eq!((reading.utc(), reading.tai().is_some()), (None, true), "TAI needs no leap indicator");
}
