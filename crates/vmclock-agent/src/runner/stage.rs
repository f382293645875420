// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that becomes a hook: leaves the runner's session, changes its user, and executes the hook.
//!
//! It is a program of its own (this one, called again), because changing users between fork and exec is not safe in
//! Rust, and here there is one thread.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::Mode;
use rustix::process::{getppid, set_parent_process_death_signal, setsid, umask, Gid, Pid, Signal, Uid};
use rustix::thread::{clear_ambient_capability_set, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::hook::Account;

/// The arguments that [`run`] understands. Without an account, the hook runs as the runner's own user.
pub(super) fn arguments(runner: u32, hook: &Path, account: Option<&Account>) -> Vec<OsString> {
    let account = account.map(|Account { uid, gid, groups }| {
        let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
        format!("{uid}:{gid}:{}", groups.join(",")).into()
    });
    [runner.to_string().into(), hook.into()].into_iter().chain(account).collect()
}

/// Becomes the hook. If it cannot, it writes the reason to its standard input, which is a pipe for that.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // A copy that is closed on exec, because exec, failed or not, makes the hook's standard input of the original.
    let refusal = io::stdin().as_fd().try_clone_to_owned();
    let reason = become_hook(arguments);
    let told = refusal.and_then(|refusal| File::from(refusal).write_all(reason.as_bytes()));
    if told.is_err() {
        eprintln!("{reason}");
    }
    ExitCode::FAILURE
}

/// Returns only if it fails, with the reason.
fn become_hook(mut arguments: impl Iterator<Item = OsString>) -> String {
    let (runner, hook, account) = (arguments.next(), arguments.next(), arguments.next());
    let runner = runner.and_then(|runner| Pid::from_raw(runner.to_str()?.parse().ok()?));
    let account = account.map(|account| account.to_str().and_then(parse));
    let (Some(runner), Some(hook), None | Some(Some(_))) = (runner, hook, &account) else {
        return "vmclock-agent hook-exec is for the hook runner only".to_owned();
    };
    if let Err(errno) = setsid() {
        return format!("cannot have a session of its own: {errno}");
    }
    if let Some(account) = account.flatten() {
        if let Err(errno) = switch(&account) {
            let Account { uid, gid, .. } = account;
            return format!(
                "cannot become user {uid}, group {gid}: {errno}; the runner needs CAP_SETUID and CAP_SETGID"
            );
        }
    }
    // After the change of users, which resets it.
    match set_parent_process_death_signal(Some(Signal::TERM)) {
        Err(errno) => return format!("cannot be tied to the runner: {errno}"),
        Ok(()) if getppid() != Some(runner) => return "the runner has ended".to_owned(),
        Ok(()) => {}
    }
    // What an initramfs leaves to its children may be 0: what hooks write is not for everyone to change.
    umask(Mode::from_raw_mode(0o022));
    let error = Command::new(&hook).stdin(Stdio::null()).exec();
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "is it there, and the interpreter that its first line names?",
        io::ErrorKind::PermissionDenied => "may its user execute it, and search its folders?",
        _ => "can it be executed by hand?",
    };
    format!("{} cannot be executed: {error}; {hint}", Path::new(&hook).display())
}

fn switch(account: &Account) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<_> = account.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    // What the runner was given with, say, systemd's AmbientCapabilities= would go on to the hook.
    clear_ambient_capability_set()?;
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

fn parse(account: &str) -> Option<Account> {
    let mut fields = account.split(':');
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let groups = fields.next()?.split(',').filter(|group| !group.is_empty());
    Some(Account { uid, gid, groups: groups.map(|group| group.parse().ok()).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood() {
        assert_eq!(arguments(7, Path::new("/x"), None), ["7", "/x"]);
        for groups in [vec![], vec![4, 110]] {
            let account = Account { uid: 33, gid: 34, groups };
            let arguments = arguments(7, Path::new("/x"), Some(&account));
            assert_eq!(parse(arguments[2].to_str().unwrap()), Some(account));
        }
        for wrong in ["", "1", "1:2", "1:2:x", "x:2:", "-1:2:"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
