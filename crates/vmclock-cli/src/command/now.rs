// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock now`: one reading.

use std::process::ExitCode;

use vmclock::{Reading, VmClock};

use crate::cli::PageArgs;
use crate::output::{print, print_json, reading_json};

pub(crate) fn run(args: &PageArgs) -> anyhow::Result<ExitCode> {
    let reading = read(&VmClock::open_at(&args.page)?)?;
    if args.json {
        let mut map = reading_json(&reading);
        map.insert("status".into(), reading.status().to_string().into());
        map.insert(
            "max_error_nsec".into(),
            reading.max_error_nanos().and_then(|error| u64::try_from(error).ok()).into(),
        );
        map.insert("disruption_marker".into(), reading.disruption_marker().into());
        map.insert("vm_generation_counter".into(), reading.generation().into());
        map.insert("counter".into(), reading.counter().into());
        print_json(&map)?;
    } else {
        print(&format!("{reading}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One reading of a page that is still published afterwards.
pub(crate) fn read(clock: &VmClock) -> anyhow::Result<Reading> {
    let reading = clock.now();
    // First: that the page vanished explains every error of the reading.
    clock.check()?;
    Ok(reading?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;
    use vmclock::mock::MockPage;
    use vmclock::ClockStatus;

    #[test]
    fn a_page_that_vanished_gives_no_time() {
        let page = MockPage::new();
        let clock = page.clock();
        read(&clock).expect("a time");
        page.remove();
        let error = read(&clock).expect_err("no time");
        assert_eq!(exit::status(&error), exit::NO_TIME);
        assert!(error.to_string().contains("removed"), "{error}");
        page.publish_again();
        page.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
        assert_eq!(exit::status(&read(&clock).expect_err("no time")), exit::NO_TIME);
    }

    #[test]
    fn a_file_that_vanishes_gives_no_time() {
        let bytes = MockPage::new().contents().to_bytes();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        for lose in [
            |path: &std::path::Path| std::fs::remove_file(path).expect("removed"),
            |path: &std::path::Path| std::fs::write(path, "").expect("cut"),
        ] {
            std::fs::write(&path, bytes).expect("written");
            let clock = VmClock::open_at(&path).expect("a page");
            lose(&path);
            let error = read(&clock).expect_err("no time");
            assert_eq!(exit::status(&error), exit::NO_TIME, "{error}");
            assert!(error.to_string().contains(path.to_str().expect("plain")), "{error}");
        }
    }
}
