// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces of whole publishers' decisions, replayed.

use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;

/// What a recorder writes to, to be read afterwards.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const JANUARY: i64 = 1_483_228_800;

fn knowledge() -> Knowledge {
    let next = Some(LeapSecond { month: JANUARY, kind: LeapKind::Inserted });
    let offset = TaiOffset::from_seconds(36).expect("in range");
    Knowledge { stated: None, kernel: None, list: Some(Listed { offset, next, expires: JANUARY + 1 }) }
}

/// Two sources, one on each scale, over a leap second that a list has, one of them a second off later.
fn record(monotonic: bool) -> Vec<u8> {
    let nominal = Period::from_frequency(NonZeroU64::new(2_500_100_000).expect("not 0"));
    let settings = Settings { monotonic, measured_wander: Some(1_000_000), ..Settings::default() };
    let utc = |second: u64| Time::from_parts(JANUARY - 100 + i64::try_from(second).expect("small"), 0);
    let roles = vec![Role { clock: 0, is_tai: true }, Role { clock: 1, is_tai: false }];
    let start = Start { settings, nominal, roles, knowledge: knowledge(), utc: utc(0) };
    let trace = Shared::default();
    let mut recorder = Recorder::new(start, Some(Box::new(trace.clone())));
    for second in 0..300_u64 {
        let counter = second.wrapping_mul(2_500_000_000).wrapping_add(u64::MAX - 5_000_000_000);
        let off = if second % 3 == 0 { 300 } else { -200 };
        let tai = i128::from(JANUARY + 36 - 100) + i128::from(second);
        let shown = if second >= 100 { tai - 37 } else { tai - 36 };
        let sample = |seconds: i128| (seconds * 1_000_000_000) + i128::from(off);
        let (before, after) = (counter, counter.wrapping_add(100));
        let stamps = [
            Stamp::Tai(Sample { before, time: Time::from_nanos(sample(tai)).expect("in range"), after }),
            Stamp::Utc(Sample {
                before,
                time: Time::from_nanos(sample(if second > 250 { shown + 1 } else { shown })).expect("in range"),
                after,
            }),
        ];
        for (source, stamp) in stamps.into_iter().enumerate() {
            let leap = LeapNotice {
                today: (source == 1 && second < 100).then_some(LeapKind::Inserted),
                now: false,
                tai_offset: TaiOffset::from_seconds(37),
            };
            let steering = (source == 0).then_some(-5);
            let measurement =
                Measurement { stamp, max_error: 500, estimated_error: 50, synchronized: true, leap, era: 7, steering };
            recorder.measured(source, &measurement);
        }
        recorder.conclude(after);
        if monotonic {
            let settled = recorder.settle(after.wrapping_add(1_000));
            recorder.settled(after.wrapping_add(1_000), settled.as_ref());
        }
        match second {
            60 => drop(recorder.update(Knowledge { list: None, ..knowledge() }, utc(60), after)),
            150 => drop(recorder.announce(Some(LeapKind::Deleted), after)),
            160 => drop(recorder.announce(None, after)),
            200 => recorder.restart(nominal),
            // As where another process continues.
            210 => recorder.renew(),
            220 => recorder.release(),
            230 => drop(recorder.rest(after)),
            _ => {}
        }
    }
    assert!(recorder.take_error().is_none());
    let bytes = trace.0.borrow().clone();
    bytes
}

#[test]
fn a_trace_gives_the_same_again() {
    for monotonic in [false, true] {
        let trace = record(monotonic);
        let mut seen = 0;
        let result = replay(&trace[..], |_| seen += 1).expect("a trace");
        assert_eq!((result.measurements, result.different), (600, 0));
        assert!(result.calibrations > 100 && seen == result.calibrations, "{result:?}");
    }
}

proptest! {
    /// Of whatever source it is, it is recorded to the last bit.
    #[test]
    fn a_measurement_is_recorded_as_it_was_given(
        (is_tai, before, raw, after) in (any::<bool>(), any::<u64>(), any::<i128>(), any::<u64>()),
        (max_error, estimated_error, synchronized, era) in any::<(u64, u64, bool, u64)>(),
        (today, now, offset, steering) in (0..3_usize, any::<bool>(), prop::option::of(-100..100_i16), any::<Option<i64>>()),
    ) {
        let stamp = if is_tai {
            Stamp::Tai(Sample { before, time: Time::from_raw(raw), after })
        } else {
            Stamp::Utc(Sample { before, time: Time::from_raw(raw), after })
        };
        let today = [None, Some(LeapKind::Inserted), Some(LeapKind::Deleted)][today];
        let leap = LeapNotice { today, now, tai_offset: offset.and_then(TaiOffset::from_seconds) };
        let measurement = Measurement { stamp, max_error, estimated_error, synchronized, leap, era, steering };
        let entry = Entry::Measured(3, measurement);
        prop_assert_eq!(format!("{:?}", Entry::parse(&entry.to_string())), format!("{:?}", Some(entry)));
    }
}

#[test]
fn a_difference_is_found_also_in_a_leap_decision() {
    let text = String::from_utf8(record(false)).expect("text");
    let changed = |kind: &str, nth: usize, word: usize, by: i128| {
        let at = text.lines().enumerate().filter(|(_, line)| line.starts_with(kind)).nth(nth).expect("a line").0;
        let change = |line: &str| {
            let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            words[word] = (words[word].parse::<i128>().expect("a number") + by).to_string();
            words.join(" ")
        };
        let lines =
            text.lines().enumerate().map(|(index, line)| if index == at { change(line) } else { line.to_owned() });
        lines.collect::<Vec<_>>().join("\n")
    };
    // A measurement's time; and TAI-UTC by the list from the start.
    for (kind, nth, word, by) in [("measured", 40, 5, 1 << 40), ("new", 0, 12, 1)] {
        let result = replay(changed(kind, nth, word, by).as_bytes(), |_| ()).expect("a trace");
        assert!(result.different > 0, "{kind}: {result:?}");
    }
}

#[test]
fn nonsense_is_refused_with_its_line() {
    let new = "vmclock-trace 2\nnew 1 - 1 1 1 0 9223372036854775808 31 0 - - - 1 0 1\n";
    for (nonsense, line) in [
        (String::new(), None),
        (new.to_owned(), None),
        ("vmclock-trace 1\n".to_owned(), Some(1)),
        ("vmclock-trace 2\nconclude 5\n".to_owned(), Some(2)),
        (format!("{new}measured 0 tai 1 2 3 4 5\n"), Some(3)),
        (format!("{new}concluded 2 0 - 0\n"), Some(3)),
        (new.replace("- - - 1 0 1", "- - - 99999999999 0 1"), Some(2)),
        (new.replace("- - - 1 0 1", "- - - 1 99 1"), Some(2)),
    ] {
        match (replay(nonsense.as_bytes(), |_| ()), line) {
            (Ok(result), None) => assert_eq!(result, Replay::default()),
            (Err(ReplayError::Line { line: found, .. }), Some(line)) => assert_eq!(found, line, "{nonsense:?}"),
            (other, _) => panic!("{nonsense:?}: {other:?}"),
        }
    }
}
