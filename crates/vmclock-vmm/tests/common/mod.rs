// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Reference tools of the firmware's formats.

use std::path::Path;
use std::process::Command;

/// Runs a tool in a folder, and gives its output. `None` where it is not installed, which continuous integration does
/// not allow.
pub(crate) fn run(tool: &str, package: &str, folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(tool).current_dir(folder).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            let is_required = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!is_required, "{tool} (Debian: {package}) does not run: {error}");
            eprintln!("skipped: {tool} (Debian: {package}) does not run: {error}");
            return None;
        }
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?} failed: {printed}");
    Some(printed)
}
