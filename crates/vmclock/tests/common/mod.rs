// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages in plain files, and a way to write them while they are mapped.
#![allow(dead_code, unreachable_pub)] // each test binary uses some of it

use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vmclock_core::abi::{ClockStatus, Flags, Snapshot, TimeType};
use vmclock_core::calibration::Period;
use vmclock_core::counter;
use vmclock_core::page::{Page, Writer};

/// A page that gives time: TAI, from this CPU's counter, at 1 GHz.
pub fn good_page() -> Snapshot {
    let period = Period::from_frequency(1_000_000_000.try_into().expect("not zero"));
    let flags = Flags::TAI_OFFSET_VALID
        .with(Flags::PERIOD_MAXERROR_VALID)
        .with(Flags::TIME_MAXERROR_VALID)
        .with(Flags::VM_GEN_COUNTER_PRESENT);
    Snapshot::BLANK.with(|page| {
        page.counter_id = counter::ID;
        page.time_type = TimeType::TAI;
        page.clock_status = ClockStatus::SYNCHRONIZED;
        page.disruption_marker = 0x1111_2222_3333_4444;
        page.flags = flags;
        page.tai_offset_sec = -37;
        page.counter_value = counter::read_ordered();
        page.counter_period_frac_sec = period.frac();
        page.counter_period_shift = period.shift();
        page.counter_period_maxerror_rate_frac_sec = period.error_rate(1_000_000);
        page.time_sec = 2_000_000_000;
        page.time_maxerror_nanosec = 0x0102_0304;
        page.vm_generation_counter = 0x5555_6666_7777_8888;
    })
}

/// 4096 bytes that begin with this page.
pub fn region(page: &Snapshot) -> Vec<u8> {
    let mut bytes = page.to_bytes().to_vec();
    bytes.resize(4096, 0);
    bytes
}

/// A folder with one file in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("page")
    }

    pub fn with(bytes: &[u8]) -> Self {
        let folder = Self::new();
        std::fs::write(folder.path(), bytes).expect("the folder can be written");
        folder
    }
}

pub fn open_for_writing(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("a file of ours")
}

/// The writer's side of a page in a file.
#[derive(Debug)]
pub struct Mapped(*mut std::ffi::c_void);

// SAFETY: the mapping belongs to the process, and all access to it is through atomics.
unsafe impl Send for Mapped {}

impl Mapped {
    pub fn of(path: &Path) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let file = open_for_writing(path);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        Self(
            unsafe { mmap(std::ptr::null_mut(), 4096, access, MapFlags::SHARED, file, 0) }
                .expect("a file of 4096 bytes"),
        )
    }
}

impl Deref for Mapped {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: mapped and large enough until `self` is dropped, and only used through this reference.
        unsafe { Page::from_ptr(self.0.cast()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length.
        unsafe { munmap(self.0, 4096) }.expect("it is mapped");
    }
}

/// A writer of the page in a file that holds one.
pub fn writer_of(path: &Path) -> Writer<Mapped> {
    Writer::take_over(Mapped::of(path), 4096).expect("a page").1
}
