use std::hint::black_box;
use std::time::*;
use vmclock::*;
use vmclock_core::{abi::*, calibration::*, counter, page::*};
fn main() {
    let p = Period::from_frequency(2_600_000_000.try_into().unwrap());
    let snap = Snapshot {
        counter_id: counter::ID,
        clock_status: ClockStatus::SYNCHRONIZED,
        disruption_marker: 5,
        vm_generation_counter: 9,
        flags: Flags(0x151),
        tai_offset_sec: -37,
        counter_period_frac_sec: p.frac(),
        counter_period_shift: p.shift(),
        counter_period_maxerror_rate_frac_sec: p.error_rate(1_000_000),
        counter_value: counter::read_ordered(),
        time_sec: 1_800_000_000,
        time_maxerror_nanosec: 50,
        ..Snapshot::BLANK
    };
    let page = &*Box::leak(Box::new(Page::new()));
    let _w = Writer::create(page, snap);
    let path = "/dev/shm/proto.page";
    let mut b = snap.to_bytes().to_vec();
    b.resize(4096, 0);
    std::fs::write(path, &b).unwrap();
    let c = VmClock::open_at(path).unwrap();
    let mut best = [f64::MAX; 12];
    for _ in 0..60 {
        let mut i = 0;
        let n = 20000u32;
        macro_rules! t {
            ($e:expr) => {
                let s = Instant::now();
                for _ in 0..n {
                    black_box(&$e);
                }
                let e = s.elapsed().as_nanos() as f64 / n as f64;
                if e < best[i] {
                    best[i] = e
                }
                i += 1;
            };
        }
        t!(SystemTime::now());
        t!(c.now());
        t!(page.words_with(counter::read_ordered, || false));
        t!(page.words_with(counter::read_ordered, || false).map(|x| x.1));
        t!(page.words_with(counter::read_ordered, || false).map(|x| Calibration::from_snapshot(
            &x.0.decode(),
            counter::ID
        )
        .unwrap()
        .time_at(x.1)));
        t!(page.words_with(counter::read_ordered, || false).map(|x| {
            let c = Calibration::from_snapshot(&x.0.decode(), counter::ID).unwrap();
            (c.time_at(x.1), c.max_error_at(x.1))
        }));
        t!(page.words_with(counter::read_ordered, || false).map(|x| {
            let c = Calibration::from_snapshot(&x.0.decode(), counter::ID).unwrap();
            (c.time_at(x.1), c.max_error_at(x.1), x.0)
        }));
        t!(Reading::new(page.words_with(counter::read_ordered, || false).unwrap().0, 7777777777, counter::ID));
    }
    for (n, b) in ["vdso", "now", "words+ctr", "ctr", "time", "time+err", "time+err+words", "new"].iter().zip(best) {
        println!("{n:24} {b:.2} {:.2}", b / best[0]);
    }
}
