// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page that a real service keeps, in this process: all but the socket between them.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use serde_json::Value;
use tempfile::TempDir;
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::tai::TaiOffset;
use vmclock_host::page_file::FilePage;
use vmclock_host::publisher::{Plan, Prepared};
use vmclock_host::service::pages::FilePages;
use vmclock_host::service::protocol::Request;
use vmclock_host::service::{Peer, Service};
use vmclock_host::source::kernel::{KernelSource, Trust};
use vmclock_host::source::Immediate;
use vmclock_host::this_host::ThisHost;
use vmclock_qemu::keeper::{Keeper, Region};
use vmclock_qemu::page::{PageChange, Seen};
use vmclock_qemu::service::{Failure, Link, ServiceGuest};

type Shared = Rc<RefCell<Service<ThisHost, FilePage, FilePages>>>;

/// A way to a service in this process, which is always there.
struct Here(Shared, Peer);

impl Link for Here {
    fn connect(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Value, Failure> {
        let copies = descriptors.iter().map(|fd| fd.try_clone_to_owned().expect("a copy")).collect();
        let answer = self.0.borrow_mut().handle(self.1, request.clone(), copies, None);
        answer.map(|answer| serde_json::to_value(answer).expect("JSON")).map_err(Failure::Refused)
    }

    fn lost(&mut self) -> Option<String> {
        None
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn has_ended(&mut self) -> bool {
        false
    }
}

/// A guest's page, and the service that keeps it.
pub(super) struct Served {
    service: Shared,
    keeper: ServiceGuest<Here>,
    /// The page's memory, as a guest and QEMU have it.
    memory: File,
    _folder: TempDir,
}

impl Served {
    pub(super) fn new(is_incoming: bool) -> Self {
        Self::of_user(0, is_incoming, false)
    }

    /// The guest of a user, with a doorbell or without.
    pub(super) fn of_user(user: u32, is_incoming: bool, notifies: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut plan = Plan::default();
        plan.tai_offset = TaiOffset::from_seconds(37);
        plan.settings.probation = 0;
        plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
        let prepared = Prepared::new(ThisHost, plan).expect("a counter");
        let (file, found) = FilePage::open(folder.path().join("host"), prepared.blank()).expect("a page");
        let (publisher, _) = prepared.on(file, found, "host").expect("a publisher");
        let service = Rc::new(RefCell::new(Service::new(publisher, FilePages, 0)));
        let mut keeper = ServiceGuest::new(Here(Rc::clone(&service), Peer { user }), "guest".parse().expect("a name"));
        let path = folder.path().join("page");
        keeper.prepare(Region::new(&path, 0x10000).incoming(is_incoming).notifying(notifies)).expect("added");
        let memory = File::options().read(true).write(true).open(&path).expect("there");
        let mut served = Self { service, keeper, memory, _folder: folder };
        served.round();
        served
    }

    pub(super) fn memory(&self) -> Snapshot {
        let mut bytes = [0; STRUCTURE_LEN];
        self.memory.read_exact_at(&mut bytes, 0).expect("readable");
        Snapshot::from_bytes(&bytes)
    }

    pub(super) fn write(&self, memory: &Snapshot) {
        self.memory.write_all_at(&memory.to_bytes(), 0).expect("writable");
    }

    pub(super) fn seen(&mut self, is_marked: bool) -> Seen {
        self.keeper.seen(&self.memory().to_bytes(), is_marked).expect("the service answers")
    }

    pub(super) fn change(&mut self, change: PageChange) {
        self.keeper.change(change).expect("done");
    }

    pub(super) fn expect_guest(&mut self) {
        self.keeper.expect_guest().expect("done");
    }

    pub(super) fn round(&mut self) {
        let mut service = self.service.borrow_mut();
        service.publisher_mut().start_round();
        assert!(service.publisher_mut().is_round_complete(), "it answers at once");
        service.finish_round().expect("a round");
        while service.catch_up(1) {}
    }
}
