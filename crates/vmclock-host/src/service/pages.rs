// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pages of guests, in files: by path, or by a descriptor that a client has passed.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{fcntl_get_seals, fcntl_getfl, fstat, FileType, OFlags};
use vmclock_core::abi::{ClockStatus, ParseError, Snapshot, STRUCTURE_LEN};
use vmclock_core::page::{TakenOver, Writer};

use crate::page_file::{FilePage, Found, MappedPage, PageFileError, LEN};
use crate::world::PageSink;

use super::protocol::Place;
use super::{GuestSink, Pages};

/// The pages of this machine's guests.
///
/// ```
/// use std::os::fd::OwnedFd;
/// use vmclock_core::abi::Snapshot;
/// use vmclock_host::page_file::Found;
/// use vmclock_host::service::pages::FilePages;
/// use vmclock_host::service::protocol::Place;
/// use vmclock_host::service::Pages;
///
/// let file = tempfile::tempfile()?;
/// file.set_len(4096)?;
/// let (_page, found) = FilePages.open(&Place::Descriptor, vec![OwnedFd::from(file)], Snapshot::BLANK)?;
/// assert_eq!(found, Found::New);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FilePages;

impl Pages for FilePages {
    type Page = GuestPage;

    fn open(
        &mut self,
        place: &Place,
        descriptors: Vec<OwnedFd>,
        blank: Snapshot,
    ) -> Result<(GuestPage, Found), PageFileError> {
        let mut descriptors = descriptors.into_iter();
        let (file, found) = match place {
            Place::Path(path) => {
                let (page, found) = FilePage::open(path, blank)?;
                (PageIn::Path(page), found)
            }
            Place::Descriptor => {
                let missing = || bad("needs a file descriptor", "none came with the request (SCM_RIGHTS)");
                let (page, found) = DescriptorPage::open(&descriptors.next().ok_or_else(missing)?, blank)?;
                (PageIn::Descriptor(page), found)
            }
        };
        let bell = descriptors.next();
        if descriptors.next().is_some() {
            return Err(bad("needs no more file descriptors", "more than a page and a doorbell came with the request"));
        }
        let bell = bell.map(Bell::new).transpose()?;
        Ok((GuestPage { file, bell }, found))
    }
}

/// A guest's page, and its doorbell.
#[derive(Debug)]
pub struct GuestPage {
    file: PageIn,
    bell: Option<Bell>,
}

#[derive(Debug)]
enum PageIn {
    Path(FilePage),
    Descriptor(DescriptorPage),
}

impl GuestPage {
    fn sink(&mut self) -> &mut dyn PageSink {
        match &mut self.file {
            PageIn::Path(page) => page,
            PageIn::Descriptor(page) => page,
        }
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl PageSink for GuestPage {
    fn contents(&self) -> &Snapshot {
        match &self.file {
            PageIn::Path(page) => page.contents(),
            PageIn::Descriptor(page) => page.writer.contents(),
        }
    }

    fn check(&mut self) -> Result<(), PageFileError> {
        self.sink().check()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.sink().update(change)?;
        self.ring();
        Ok(())
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.sink().update_late(change)?;
        self.ring();
        Ok(())
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.sink().continue_after(seq_count);
    }

    fn give_up(&mut self) {
        self.sink().give_up();
        self.ring();
    }
}

impl GuestSink for GuestPage {
    fn memory(&self) -> Snapshot {
        match &self.file {
            PageIn::Path(page) => page.in_memory(),
            PageIn::Descriptor(page) => page.writer.in_memory(),
        }
    }
}

/// File systems that are a disk of this machine, and no process.
const LOCAL: [&str; 9] = ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "xfs", "zfs"];

/// A page whose file a client has opened. Its name is the client's business.
#[derive(Debug)]
struct DescriptorPage {
    writer: Writer<MappedPage>,
}

impl DescriptorPage {
    fn open(file: &OwnedFd, blank: Snapshot) -> Result<(Self, Found), PageFileError> {
        let failed = |doing| move |errno: rustix::io::Errno| io_error(doing, errno.into());
        let flags = fcntl_getfl(file).map_err(failed("ask how it was opened"))?;
        if flags & OFlags::RWMODE != OFlags::RDWR {
            return Err(bad("map it for writing", "it is not open for reading and writing"));
        }
        // Before anything asks its file system, which may be a process of the client's that never answers. Memory alone
        // has seals.
        if fcntl_get_seals(file).is_err() {
            match file_system(file.as_fd()) {
                None => return Err(bad("map it", "it is neither a memfd nor a plain file of this machine")),
                Some(kind) if !LOCAL.contains(&kind.as_str()) => {
                    return Err(bad("map it", "its file system may never answer: pass a memfd, or a file on tmpfs"))
                }
                Some(_) => {}
            }
        }
        let attributes = fstat(file).map_err(failed("ask for its attributes"))?;
        if FileType::from_raw_mode(attributes.st_mode) != FileType::RegularFile {
            return Err(bad("map it", "it is neither a memfd nor a plain file"));
        }
        let len = usize::try_from(attributes.st_size).unwrap_or(0);
        if len < LEN {
            return Err(PageFileError::NotAPage { path: name(), error: ParseError::TooShort { len } });
        }
        let page = MappedPage::of(file.as_fd()).map_err(|error| io_error("map it", error))?;
        if page.snapshot(|| false).is_ok_and(|page| page.to_bytes() == [0; STRUCTURE_LEN]) {
            return Ok((Self { writer: Writer::create(page, blank) }, Found::New));
        }
        let (taken_over, writer) =
            Writer::take_over(page, len).map_err(|(error, _)| PageFileError::NotAPage { path: name(), error })?;
        let last = *writer.contents();
        let found = match taken_over {
            TakenOver::Static => Found::AtRest(last),
            TakenOver::Interrupted => Found::Interrupted(last),
        };
        Ok((Self { writer }, found))
    }

    fn written(&self) -> Result<(), PageFileError> {
        if self.writer.page().is_lost() {
            return Err(PageFileError::Lost { path: name(), what: "cut short" });
        }
        Ok(())
    }
}

impl PageSink for DescriptorPage {
    fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.writer.update(change);
        self.written()
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.writer.update_late(change);
        self.written()
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.writer.continue_after(seq_count);
    }

    fn give_up(&mut self) {
        self.writer.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
    }
}

/// The kind of file system that an open file is on, as the kernel lists its mounts; `None` where it is on none of
/// them. Nothing is asked of the file system.
fn file_system(file: BorrowedFd<'_>) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = about.lines().find_map(|line| Some(line.strip_prefix("mnt_id:")?.trim()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

/// A doorbell: an eventfd, which is written 1 after each update.
#[derive(Debug)]
struct Bell(OwnedFd);

impl Bell {
    fn new(eventfd: OwnedFd) -> Result<Self, PageFileError> {
        // A bell that nobody reads must not stop whoever rings it.
        let flags = fcntl_getfl(&eventfd).map_err(|errno| io_error("use its doorbell", errno.into()))?;
        rustix::fs::fcntl_setfl(&eventfd, flags | OFlags::NONBLOCK)
            .map_err(|errno| io_error("use its doorbell", errno.into()))?;
        let bell = Self(eventfd);
        match bell.write() {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(bell),
            Err(errno) => Err(io_error("ring its doorbell", errno.into())),
        }
    }

    fn write(&self) -> rustix::io::Result<usize> {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes())
    }

    /// A bell that is full rings already.
    fn ring(&self) {
        let _ = self.write();
    }
}

/// What a page without a name is called.
fn name() -> PathBuf {
    "the page's file descriptor".into()
}

fn io_error(doing: &'static str, error: Error) -> PageFileError {
    PageFileError::Io { path: name(), doing, error }
}

fn bad(doing: &'static str, why: &'static str) -> PageFileError {
    io_error(doing, Error::new(ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::event::{eventfd, EventfdFlags};
    use rustix::fs::{memfd_create, MemfdFlags};

    use super::*;

    fn memfd() -> File {
        let file = File::from(memfd_create("page", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(0x10000).expect("long enough");
        file
    }

    fn open(descriptors: Vec<OwnedFd>) -> Result<(GuestPage, Found), PageFileError> {
        FilePages.open(&Place::Descriptor, descriptors, Snapshot::BLANK.with(|page| page.disruption_marker = 7))
    }

    fn copy(file: &File) -> OwnedFd {
        file.try_clone().expect("a copy").into()
    }

    #[test]
    fn a_page_by_descriptor_is_published_and_taken_over() {
        let file = memfd();
        let (mut page, found) = open(vec![copy(&file)]).expect("opened");
        assert_eq!(found, Found::New);
        page.update(&mut |page| page.clock_status = ClockStatus::SYNCHRONIZED).expect("written");
        assert_eq!(page.memory(), *page.contents());
        let (_, found) = open(vec![copy(&file)]).expect("opened");
        assert!(matches!(found, Found::AtRest(last) if last.disruption_marker == 7));
        file.set_len(0).expect("cut short");
        let error = page.update(&mut |_| ()).expect_err("lost").to_string();
        assert!(error.contains("cut short"), "{error}");
        page.give_up();
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "x".repeat(LEN)).expect("written");
        let mut short = memfd();
        short.write_all(b"x").expect("written");
        short.set_len(100).expect("short");
        let (socket, _other) = UnixStream::pair().expect("a pair");
        let read_write = File::options().read(true).write(true).open(&path).expect("opened");
        let of_process = File::options().read(true).write(true).open("/proc/self/comm").expect("opened");
        for (descriptors, words) in [
            (vec![], "none came with the request"),
            (vec![OwnedFd::from(File::open(&path).expect("opened"))], "not open for reading and writing"),
            (vec![short.into()], "100 bytes"),
            (vec![of_process.into()], "its file system may never answer"),
            (vec![socket.into()], "neither a memfd nor a plain file"),
            (vec![read_write.into()], "VCLK"),
            (vec![copy(&memfd()), copy(&memfd()), copy(&memfd())], "more than a page and a doorbell"),
        ] {
            let error = open(descriptors).expect_err(words).to_string();
            assert!(error.contains(words), "{error} lacks {words}");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "x".repeat(LEN));
    }

    #[test]
    fn a_doorbell_that_nobody_answers_stops_nobody() {
        let bell = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
        let own = bell.try_clone().expect("a copy");
        let (mut page, _) = open(vec![copy(&memfd()), bell]).expect("opened");
        let mut count = [0; 8];
        rustix::io::read(&own, &mut count).expect("rung when it was opened");
        rustix::io::write(&own, &(u64::MAX - 1).to_ne_bytes()).expect("full");
        page.update(&mut |_| ()).expect("written");
        rustix::io::read(&own, &mut count).expect("full");
        page.update(&mut |_| ()).expect("written");
        rustix::io::read(&own, &mut count).expect("rung");
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
