// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which page is meant where none is named.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid, getgid, getuid};

/// Where Linux puts the first VMClock.
pub const DEVICE_PATH: &str = "/dev/vmclock0";

/// Where a publisher on this machine puts the page that is meant for everyone.
pub const PUBLISHED_PATH: &str = "/run/vmclock/page";

/// The environment variable that names a page.
pub const PAGE_VARIABLE: &str = "VMCLOCK_PAGE";

/// The page that is meant where none is named: the value of [`PAGE_VARIABLE`], if it is set and not empty; otherwise
/// the first of [`DEVICE_PATH`] and [`PUBLISHED_PATH`] that exists, readable or not; otherwise [`DEVICE_PATH`].
///
/// The variable is ignored in a program that has other rights than its user (set-user-ID or set-group-ID).
///
/// ```
/// let page = vmclock::default_page();
/// let clock = vmclock::VmClock::open_at(&page); // is VmClock::open()
/// ```
pub fn default_page() -> PathBuf {
    let is_users_own = getuid() == geteuid() && getgid() == getegid();
    let named = if is_users_own { env::var_os(PAGE_VARIABLE) } else { None };
    choose(named, &[DEVICE_PATH, PUBLISHED_PATH].map(Path::new))
}

/// The named page, or the first that exists, or the first.
fn choose(named: Option<OsString>, places: &[&Path; 2]) -> PathBuf {
    match named {
        Some(named) if !named.is_empty() => named.into(),
        _ => places.iter().find(|place| place.symlink_metadata().is_ok()).unwrap_or(&places[0]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_page_comes_first_then_the_first_that_exists() {
        let folder = tempfile::tempdir().expect("a folder");
        let [device, published] = ["device", "published"].map(|name| folder.path().join(name));
        let places = [device.as_path(), published.as_path()];
        assert_eq!(choose(None, &places), device, "the error is about the device");
        std::fs::write(&published, "").expect("written");
        assert_eq!(choose(None, &places), published);
        std::fs::write(&device, "").expect("written");
        assert_eq!(choose(None, &places), device);
        assert_eq!(choose(Some(OsString::new()), &places), device, "empty is as unset");
        assert_eq!(choose(Some("elsewhere".into()), &places), Path::new("elsewhere"));
    }
}
