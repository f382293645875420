// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is made from the definition of the command line: help, completions, man pages.

mod common;

use common::{run, stdout};

const SUBCOMMANDS: [&str; 19] = [
    "show",
    "now",
    "watch",
    "wait",
    "eval",
    "doctor",
    "serve",
    "check-config",
    "qemu",
    "signal",
    "guests",
    "sources",
    "tracking",
    "exporter",
    "simulate",
    "demo",
    "bench",
    "completions",
    "man",
];

#[test]
fn every_subcommand_has_help_with_an_example() {
    let overview = stdout(&run(&["--help"]));
    assert!(overview.contains("Exit status:"));
    for subcommand in SUBCOMMANDS {
        assert!(overview.contains(&format!("\n  {subcommand} ")), "{subcommand} is not in {overview}");
        let help = stdout(&run(&[subcommand, "--help"]));
        assert!(help.contains("Examples:") && help.contains(&format!("vmclock {subcommand}")), "{help}");
    }
    assert!(stdout(&run(&["--version"])).starts_with("vmclock "));
}

#[test]
fn completions_and_man_pages_cover_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(SUBCOMMANDS.iter().all(|subcommand| script.contains(subcommand)), "{shell}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("man");
    assert!(run(&["man", "--out", out.to_str().expect("plain")]).status.success());
    for subcommand in SUBCOMMANDS {
        let page = std::fs::read_to_string(out.join(format!("vmclock-{subcommand}.1"))).expect("a man page");
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Examples"), "{subcommand}");
    }
}

#[test]
fn what_is_not_understood_is_status_2() {
    for args in [&["explode"][..], &[], &["now", "--pag"], &["wait", "--max-error", "1"], &["bench", "--rounds", "0"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}
