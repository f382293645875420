// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hooks are run as asked, whatever they do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{mkfifoat, OFlags, CWD};
use rustix::io::Errno;
use rustix::process::{geteuid, kill_process, pidfd_open, waitid, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use vmclock_agent::runner::{HookEvent, HookResult, HookStatus, Report, Runner, MOST_RUNS};

/// A machine may be busy; a test that waits for so long has failed.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder of hooks, and another one for what they leave behind.
struct Scene {
    hooks: tempfile::TempDir,
    traces: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { hooks: tempfile::tempdir().unwrap(), traces: tempfile::tempdir().unwrap() };
        // So that hooks of other users are found.
        fs::set_permissions(scene.hooks.path(), fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    /// A shell script, in which `$traces` is the folder for traces.
    fn hook(&self, name: &str, settings: &str, script: &str) -> &Self {
        let text = format!("#!/bin/sh\ntraces='{}'\n{script}\n", self.traces.path().display());
        self.file(name, &text);
        if !settings.is_empty() {
            fs::write(self.hooks.path().join(format!("{name}.toml")), settings).unwrap();
        }
        self
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.hooks.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn trace(&self, name: &str) -> PathBuf {
        self.traces.path().join(name)
    }

    fn fifo(&self, name: &str) {
        mkfifoat(CWD, self.trace(name), 0o600.into()).unwrap();
    }

    /// A pipe that hooks open for writing; its end tells that all who had it are gone.
    fn leash(&self, name: &str) -> Leash {
        self.fifo(name);
        let reader = File::options().read(true).custom_nonblock().open(self.trace(name)).unwrap();
        // As long as there is a writer, none that leaves is the last one; and a hook that is killed early may never be one.
        let writer = File::options().write(true).open(self.trace(name)).unwrap();
        Leash { reader, writer }
    }

    fn runner(&self) -> Runner {
        Runner::start(program(), self.hooks.path()).unwrap()
    }

    /// One run for `restored`, to its end.
    fn run(&self) -> (Vec<HookResult>, bool) {
        let mut runner = self.runner();
        runner.run(1, &event("restored")).unwrap();
        until_finished(&mut runner, 1)
    }
}

trait Nonblock {
    fn custom_nonblock(&mut self) -> &mut Self;
}

impl Nonblock for fs::OpenOptions {
    fn custom_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(OFlags::NONBLOCK.bits().try_into().unwrap())
    }
}

struct Leash {
    reader: File,
    writer: File,
}

impl Leash {
    /// Waits for a line, which a writer sends when it is ready.
    fn line(&mut self) -> String {
        let mut line = String::new();
        while !line.ends_with('\n') {
            wait_for(&self.reader, PollFlags::IN);
            let mut byte = [0];
            match self.reader.read(&mut byte) {
                Ok(1) => line.push(byte[0].into()),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        line
    }

    /// Waits until nobody has it open.
    fn gone(self) {
        let Self { mut reader, writer } = self;
        drop(writer);
        loop {
            wait_for(&reader, PollFlags::IN);
            let mut rest = [0; 256];
            match reader.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vmclock-agent"))
}

fn event(name: &str) -> HookEvent {
    HookEvent { names: vec![name.to_owned()], variables: vec![("VMCLOCK_EVENT".to_owned(), name.to_owned())] }
}

fn wait_for(fd: impl AsFd, flags: PollFlags) {
    let deadline = Timespec::try_from(DEADLINE).unwrap();
    let ready = poll(&mut [PollFd::new(&fd, flags)], Some(&deadline)).unwrap();
    assert_eq!(ready, 1, "nothing happened in {DEADLINE:?}");
}

fn until_finished(runner: &mut Runner, run: u64) -> (Vec<HookResult>, bool) {
    let started = Instant::now();
    let mut results = Vec::new();
    loop {
        assert!(started.elapsed() < DEADLINE, "{results:?}");
        wait_for(&*runner, PollFlags::IN);
        for report in runner.receive().unwrap() {
            match report {
                Report::Hook(result) => results.push(result),
                Report::Finished { id, succeeded } => {
                    assert_eq!(id, run);
                    return (results, succeeded);
                }
                Report::Died => panic!("the runner died"),
            }
        }
    }
}

fn until_died(runner: &mut Runner) {
    loop {
        wait_for(&*runner, PollFlags::IN);
        if runner.receive().unwrap().contains(&Report::Died) {
            return;
        }
    }
}

fn process_of(runner: &Runner) -> OwnedFd {
    pidfd_open(Pid::from_raw(runner.process_id().try_into().unwrap()).unwrap(), PidfdFlags::empty()).unwrap()
}

#[test]
fn a_hook_has_the_events_variables_and_nothing_else() {
    let scene = Scene::new();
    scene.hook("10-env", "", "umask; env; echo stdin: $(cat); pwd; ls /proc/self/fd");
    scene.hook("20-other", "events = ['thawed']", "exit 1");
    let mut runner = scene.runner();
    let hostile = "$(touch /tmp/x); `id` \"'\n*";
    let mut asked = event("restored");
    asked.variables.push(("VMCLOCK_OLD_GENERATION".to_owned(), hostile.to_owned()));
    runner.run(7, &asked).unwrap();
    assert_eq!(runner.unfinished().collect::<Vec<_>>(), [7]);
    let (results, succeeded) = until_finished(&mut runner, 7);
    assert_eq!(runner.unfinished().count(), 0);
    let [result] = &results[..] else { panic!("{results:?}") };
    let HookResult { run: 7, order: 10, required: false, attempts: 1, status: HookStatus::Succeeded, .. } = result
    else {
        panic!("{result:?}")
    };
    assert!(succeeded && result.name == "env");
    assert!(result.tail.contains(&format!("VMCLOCK_OLD_GENERATION={hostile}\n")), "{}", result.tail);
    // Nothing is inherited but what everything here inherits.
    let here = Command::new("sh").args(["-c", "ls /proc/self/fd"]).stdin(Stdio::null()).output().unwrap();
    let files = String::from_utf8(here.stdout).unwrap();
    assert!(result.tail.ends_with(&format!("\nstdin:\n/\n{files}")), "{files:?}: {}", result.tail);
    assert!(result.tail.starts_with("0022\n"), "{}", result.tail);
    let variables: BTreeSet<_> =
        result.tail.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let expected = ["LANG", "PATH", "PWD", "VMCLOCK_EVENT", "VMCLOCK_OLD_GENERATION"];
    assert!(expected.iter().all(|name| variables.contains(name)), "{variables:?}");
    // A shell sets some of its own.
    let known = [&expected[..], &["SHLVL", "_", "OLDPWD"]].concat();
    assert!(variables.iter().all(|name| known.contains(name)), "{variables:?}");
}

#[test]
fn a_number_runs_in_parallel_and_after_the_one_before() {
    let scene = Scene::new();
    scene.fifo("a");
    scene.fifo("b");
    // Each waits for the other one.
    scene.hook("10-a", "", "echo a > $traces/a; cat $traces/b; touch $traces/a-done");
    scene.hook("10-b", "", "cat $traces/a; echo b > $traces/b; touch $traces/b-done");
    scene.hook("11-c", "required = true", "test -e $traces/a-done -a -e $traces/b-done");
    let (results, succeeded) = scene.run();
    assert!(succeeded && results.len() == 3, "{results:?}");
    assert!(results.iter().all(|result| result.status == HookStatus::Succeeded), "{results:?}");
    assert_eq!(results[2].name, "c");
}

#[test]
fn a_required_hook_that_fails_stops_no_other() {
    let scene = Scene::new();
    scene.hook("10-optional", "", "exit 1");
    assert!(scene.run().1);
    scene.hook("20-required", "required = true", "echo no >&2; exit 3");
    scene.hook("30-killed", "", "kill -9 $$");
    scene.hook("40-after", "", "true");
    let (results, succeeded) = scene.run();
    assert!(!succeeded);
    let status: Vec<_> = results.iter().map(|result| (result.order, result.status.clone())).collect();
    let expected = [
        (10, HookStatus::Failed { exit_code: 1 }),
        (20, HookStatus::Failed { exit_code: 3 }),
        (30, HookStatus::Killed { signal: 9 }),
        (40, HookStatus::Succeeded),
    ];
    assert_eq!(status, expected);
    assert_eq!(results[1].tail, "no\n");
    let json = serde_json::to_value(Report::Hook(results[1].clone())).unwrap();
    assert_eq!((&json["report"], &json["status"], &json["exit_code"]), (&"hook".into(), &"failed".into(), &3.into()));
}

#[test]
fn a_hook_that_fails_at_first_is_tried_again() {
    let scene = Scene::new();
    scene.hook(
        "10-third",
        "required = true\nretries = 5",
        "echo >> $traces/n; echo $(wc -l < $traces/n); test $(wc -l < $traces/n) = 3",
    );
    scene.hook("20-never", "retries = 1", "exit 9");
    let (results, succeeded) = scene.run();
    assert!(succeeded);
    assert_eq!((results[0].attempts, &results[0].status, &*results[0].tail), (3, &HookStatus::Succeeded, "3\n"));
    assert_eq!((results[1].attempts, &results[1].status), (2, &HookStatus::Failed { exit_code: 9 }));
}

#[test]
fn a_hook_that_hangs_is_ended_with_all_its_processes() {
    let scene = Scene::new();
    let leash = scene.leash("leash");
    scene.hook("10-hangs", "timeout = '50ms'\nrequired = true", "exec 3> $traces/leash; sleep 1000 & sleep 1000; true");
    scene.hook("20-next", "", "true");
    let (results, succeeded) = scene.run();
    assert!(!succeeded);
    assert_eq!((&results[0].status, results[0].attempts), (&HookStatus::TimedOut, 1));
    assert_eq!(results[1].status, HookStatus::Succeeded);
    leash.gone();
}

#[test]
fn a_hook_that_ignores_sigterm_is_killed_with_all_its_processes() {
    let scene = Scene::new();
    let leash = scene.leash("leash");
    let script = "trap '' TERM; exec 3> $traces/leash; sleep 1000 & while :; do sleep 1000; done";
    scene.hook("10-stubborn", "timeout = '1s'", script);
    // Its own end is in time; what it started ignores the request.
    let second = scene.leash("second");
    let script = "exec 3> $traces/second; (trap '' TERM; echo ready >&3; exec sleep 1000) & sleep 1000";
    scene.hook("10-child", "timeout = '1s'", script);
    let stopped = scene.leash("stopped");
    scene.hook("10-stopped", "timeout = '1s'", "exec 3> $traces/stopped; kill -STOP $$; true");
    let (results, _) = scene.run();
    assert_eq!(results.len(), 3);
    assert!(results.iter().all(|result| result.status == HookStatus::TimedOut), "{results:?}");
    for leash in [leash, second, stopped] {
        leash.gone();
    }
}

#[test]
fn a_daemon_that_keeps_the_pipe_holds_nothing_up() {
    let scene = Scene::new();
    let mut leash = scene.leash("leash");
    // One in the hook's session, which floods; one that left it.
    scene.hook(
        "10-forks",
        "required = true\ntimeout = '1h'",
        "exec 3> $traces/leash; echo started\n(trap '' TERM HUP; yes) &\nsetsid sh -c 'echo $$ >&3; exec sleep 1000' &\nexit 0",
    );
    let (results, succeeded) = scene.run();
    assert!(succeeded, "{results:?}");
    assert_eq!(results[0].status, HookStatus::Succeeded);
    // Who stays is let live; who writes has no reader.
    let daemon = Pid::from_raw(leash.line().trim().parse().unwrap()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    leash.gone();
}

#[test]
fn the_end_of_a_flood_is_kept() {
    let scene = Scene::new();
    scene.hook("10-floods", "timeout = '10min'", "head -c 20000000 /dev/zero | tr '\\0' x; printf 'the end\\200'");
    scene.hook("10-for-ever", "timeout = '1s'", "exec yes");
    let (mut results, _) = scene.run();
    results.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(results[0].status, HookStatus::Succeeded);
    assert_eq!(results[0].tail, "x".repeat(4096 - 8) + "the end\u{fffd}");
    assert_eq!(results[1].status, HookStatus::TimedOut);
    assert!(results[1].tail.len() <= 4096);
}

#[test]
fn what_cannot_start_says_why() {
    let scene = Scene::new();
    scene.hook("10-remover", "", &format!("rm '{}'/50-removed", scene.hooks.path().display()));
    scene.file("20-no-interpreter", "#!/nonexistent/sh\n");
    scene.file("30-empty", "");
    scene.hook("40-settings", "retrys = 1\nrequired = false", "true");
    scene.hook("50-removed", "retries = 1\nrequired = true", "true");
    scene.hook("60-last", "", "true");
    let (mut results, succeeded) = scene.run();
    results.sort_by_key(|result| result.order);
    assert!(!succeeded);
    let reason = |index: usize| match &results[index].status {
        HookStatus::CannotStart { reason } => reason.as_str(),
        other => panic!("{index}: {other:?}"),
    };
    assert!(reason(1).contains("20-no-interpreter cannot be executed: No such file"), "{}", reason(1));
    assert!(reason(2).contains("30-empty: is empty"), "{}", reason(2));
    assert!(reason(3).contains("40-settings.toml:1: retrys: is not known"), "{}", reason(3));
    assert_eq!((results[3].attempts, results[3].required), (0, true), "whether it is required is not known");
    assert!(reason(4).contains("50-removed cannot be executed: No such file"), "{}", reason(4));
    assert_eq!(results[4].attempts, 2);
    assert_eq!(results[5].status, HookStatus::Succeeded);
}

#[test]
fn a_folder_that_cannot_be_trusted_fails_each_run() {
    let scene = Scene::new();
    scene.hook("10-good", "", "true");
    fs::set_permissions(scene.hooks.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (results, succeeded) = scene.run();
    assert!(!succeeded && results.len() == 1);
    assert!(matches!(&results[0].status, HookStatus::CannotStart { reason } if reason.contains("everyone can write")));
}

#[test]
fn a_hundred_hooks() {
    let scene = Scene::new();
    for index in 0..100 {
        // All of a number at once: each waits until the other 24 have begun.
        let number = index / 25;
        let script = format!(
            "mkdir -p $traces/{number}; touch $traces/{number}/{index}\n\
             while [ $(ls $traces/{number} | wc -l) -lt 25 ]; do sleep 0.05; done"
        );
        scene.hook(&format!("{number:02}-hook-{index}"), "required = true\ntimeout = '10min'", &script);
    }
    let (results, succeeded) = scene.run();
    assert!(succeeded, "{results:?}");
    assert_eq!(results.iter().map(|result| &result.name).collect::<BTreeSet<_>>().len(), 100);
    assert!(results.windows(2).all(|two| two[0].order <= two[1].order));
}

#[test]
fn few_file_descriptors_only_mean_fewer_at_once() {
    let scene = Scene::new();
    for index in 0..40 {
        scene.hook(&format!("10-hook-{index}"), "required = true", "exit 0");
    }
    // By way of a shell, which lowers the limit, and then is the runner.
    let few = scene.trace("few");
    fs::write(&few, format!("#!/bin/sh\nulimit -n 40 && exec '{}' \"$@\"\n", program().display())).unwrap();
    fs::set_permissions(&few, fs::Permissions::from_mode(0o755)).unwrap();
    let mut runner = Runner::start(&few, scene.hooks.path()).unwrap();
    runner.run(1, &event("restored")).unwrap();
    let (results, succeeded) = until_finished(&mut runner, 1);
    assert!(succeeded && results.len() == 40, "{results:?}");
}

#[test]
fn runs_are_done_one_after_the_other() {
    let scene = Scene::new();
    scene.hook(
        "10-log",
        "events = ['restored', 'thawed']",
        "mkdir $traces/alone && echo $VMCLOCK_EVENT && rmdir $traces/alone",
    );
    let mut runner = scene.runner();
    let wanted: Vec<_> = (0..MOST_RUNS as u64).collect();
    for (&id, name) in wanted.iter().zip(["restored", "thawed"].into_iter().cycle()) {
        runner.run(id / 2, &event(name)).unwrap();
    }
    let error = runner.run(99, &event("restored")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let mut finished = Vec::new();
    while finished.len() < MOST_RUNS {
        wait_for(&runner, PollFlags::IN);
        for report in runner.receive().unwrap() {
            match report {
                Report::Hook(result) => {
                    let expected = ["restored\n", "thawed\n"][finished.len() % 2];
                    assert_eq!((&result.status, &*result.tail), (&HookStatus::Succeeded, expected));
                }
                Report::Finished { id, succeeded: true } => finished.push(id),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(finished, wanted.iter().map(|id| id / 2).collect::<Vec<_>>());
    runner.run(99, &event("quiesce")).unwrap();
    assert_eq!(until_finished(&mut runner, 99), (vec![], true));
}

#[test]
fn a_hook_for_several_of_the_events_runs_once() {
    let scene = Scene::new();
    scene.hook("10-both", "events = ['restored', 'disrupted']", "echo both");
    scene.hook("20-second", "events = ['disrupted']", "echo second");
    scene.hook("30-neither", "events = ['quiesce']", "echo neither");
    let mut runner = scene.runner();
    let names = vec!["restored".to_owned(), "disrupted".to_owned()];
    runner.run(1, &HookEvent { names, variables: vec![] }).unwrap();
    let (results, _) = until_finished(&mut runner, 1);
    assert_eq!(results.iter().map(|result| &*result.tail).collect::<Vec<_>>(), ["both\n", "second\n"]);
}

#[test]
fn only_variables_of_ours_are_passed() {
    let scene = Scene::new();
    let mut runner = scene.runner();
    for (name, value) in
        [("LD_PRELOAD", "x"), ("VMCLOCK_", "x"), ("VMCLOCK_a", "x"), ("VMCLOCK_A=B", "x"), ("VMCLOCK_A", "\0")]
    {
        let event =
            HookEvent { names: vec!["restored".to_owned()], variables: vec![(name.to_owned(), value.to_owned())] };
        assert_eq!(runner.run(1, &event).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    let long =
        HookEvent { names: vec!["restored".to_owned()], variables: vec![("VMCLOCK_A".to_owned(), "x".repeat(70_000))] };
    assert_eq!(runner.run(1, &long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(runner.unfinished().count(), 0);
}

#[test]
fn a_killed_runner_is_reported_and_takes_its_hooks_along() {
    let scene = Scene::new();
    let mut leash = scene.leash("leash");
    scene.hook("10-runs", "timeout = '1h'", "exec 3> $traces/leash; echo ready >&3; exec sleep 1000");
    let mut runner = scene.runner();
    runner.run(5, &event("restored")).unwrap();
    assert_eq!(leash.line(), "ready\n");
    kill_process(Pid::from_raw(runner.process_id().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    until_died(&mut runner);
    leash.gone();
    assert_eq!(runner.unfinished().collect::<Vec<_>>(), [5]);
    assert_eq!(runner.receive().unwrap(), [Report::Died]);
    assert_eq!(runner.run(6, &event("restored")).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn when_the_agent_ends_hooks_that_run_are_finished_and_no_more_is_started() {
    let scene = Scene::new();
    scene.fifo("gate");
    let mut leash = scene.leash("leash");
    scene.hook(
        "10-runs",
        "timeout = '1h'\nretries = 5",
        "echo ready > $traces/leash; cat $traces/gate; touch $traces/first; exit 1",
    );
    scene.hook("20-next", "", "touch $traces/next");
    let mut runner = scene.runner();
    runner.run(1, &event("restored")).unwrap();
    runner.run(2, &event("restored")).unwrap();
    assert_eq!(leash.line(), "ready\n");
    let process = process_of(&runner);
    drop(runner);
    fs::write(scene.trace("gate"), "go").unwrap();
    wait_for(&process, PollFlags::IN);
    assert!(scene.trace("first").exists(), "it was not run to its end");
    assert!(!scene.trace("next").exists());
}

#[test]
fn an_idle_runner_ends_with_its_agent() {
    let runner = Scene::new().runner();
    let process = process_of(&runner);
    drop(runner);
    wait_for(&process, PollFlags::IN);
    // It is no zombie once there is another.
    drop(Scene::new().runner());
    let waited = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    assert_eq!(waited.err(), Some(Errno::CHILD));
}

#[test]
fn a_hook_runs_as_its_user_with_its_groups_only() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can change users");
        return;
    }
    let scene = Scene::new();
    let id = "id -u; id -g; id -G; grep ^Cap[PEA] /proc/self/status";
    scene.hook("10-plain", "user = '12345:12346'", id);
    scene.hook("20-named", "user = 'nobody'", id);
    scene.hook("30-own", "", "id -u");
    let no_capability = "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let (results, _) = scene.run();
    assert_eq!(results[0].tail, format!("12345\n12346\n12346\n{no_capability}"));
    let expected = Command::new("sh").args(["-c", "id -u nobody; id -g nobody; id -G nobody"]).output().unwrap();
    assert_eq!(results[1].tail, String::from_utf8(expected.stdout).unwrap() + no_capability);
    assert_eq!(results[2].tail, "0\n");
}

#[test]
fn what_belongs_to_others_is_not_run() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let scene = Scene::new();
    scene.hook("10-theirs", "required = true", "true").hook("20-settings", "retries = 0", "true");
    chown(scene.hooks.path().join("10-theirs"), Some(12345), None).unwrap();
    chown(scene.hooks.path().join("20-settings.toml"), Some(12345), None).unwrap();
    let (results, succeeded) = scene.run();
    assert!(!succeeded && results.len() == 2);
    for result in results {
        let HookStatus::CannotStart { reason } = &result.status else { panic!("{result:?}") };
        assert!(reason.contains("belongs to uid 12345, not to root"), "{reason}");
    }
}

#[test]
fn what_is_no_agent_is_refused() {
    // Standard input that is no socket; and arguments that only the agent gives.
    let run = |arguments: &[&str]| Command::new(program()).args(arguments).output().unwrap();
    let output = run(&["hook-runner", "/proc/self/exe", "/nonexistent"]);
    assert!(!output.status.success() && !output.stderr.is_empty());
    assert_eq!(run(&["hook-runner"]).status.code(), Some(2));
    let output = run(&["hook-exec", "1", "/bin/true"]);
    assert!(!output.status.success());
    assert!(Runner::start(Path::new("/nonexistent/agent"), Path::new("/"))
        .unwrap_err()
        .to_string()
        .contains("/nonexistent/agent"));
    let mut stranger = Runner::start(Path::new("/bin/true"), Path::new("/")).unwrap();
    until_died(&mut stranger);
}

#[test]
fn what_a_broken_agent_writes_ends_the_runner() {
    use rustix::net::{send, SendFlags};
    let runner = Scene::new().runner();
    let process = process_of(&runner);
    let hostile = br#"{"id":1,"event":{"names":["restored"],"variables":[["LD_PRELOAD","x"]]}}"#;
    send(&runner, hostile, SendFlags::NOSIGNAL).unwrap();
    wait_for(&process, PollFlags::IN);
}
