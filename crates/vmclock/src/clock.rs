// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a clock and reading it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vmclock_core::abi::{CounterId, ParseError, Snapshot};
use vmclock_core::counter;
use vmclock_core::event::Epoch;

use crate::cross::CrossTimestamp;
use crate::error::{OpenError, ReadError};
use crate::events::Events;
use crate::mapping::Mapping;
use crate::path::default_page;
use crate::reading::Reading;
use crate::source::{check_whole, pread, Source, Timeout};
use crate::vanished::{Loss, Origin, Vanished};

/// How to open a clock.
///
/// ```no_run
/// use std::time::Duration;
/// let clock = vmclock::OpenOptions::new().max_wait(Duration::from_millis(5)).open("/dev/vmclock0")?;
/// # Ok::<(), vmclock::OpenError>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    max_wait: Duration,
    map_files: bool,
    map: bool,
}

impl OpenOptions {
    /// The defaults: wait up to 100 ms, map whatever can be mapped.
    pub const fn new() -> Self {
        Self { max_wait: Duration::from_millis(100), map_files: true, map: true }
    }

    /// How long a reading waits for an update in progress before it fails with [`ReadError::Busy`]. 100 ms by default,
    /// as in Linux's driver.
    #[must_use]
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Whether plain files are mapped. The default is yes, and comes with a SIGBUS handler, in case the file is cut
    /// short under the mapping; it passes on whatever is not about a page. With `false`, plain files are read by
    /// system calls and no handler is installed. Devices are mapped without one.
    #[must_use]
    pub const fn map_files(mut self, map: bool) -> Self {
        self.map_files = map;
        self
    }

    /// Whether anything is mapped; with `false` all reading goes through `pread`.
    #[must_use]
    pub const fn map(mut self, map: bool) -> Self {
        self.map = map;
        self
    }

    /// Opens the clock at `path`: a VMClock device, or a plain file with a page in it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<VmClock, OpenError> {
        let path = path.as_ref();
        let file = open_file(path)?;
        let metadata = file.metadata().map_err(|error| io_error(path, "get its metadata", error))?;
        let plain = check_kind(path, &metadata)?;
        let (size, len) = check_page(path, &file, self.max_wait)?;
        let mapping = if !self.map || (plain && !self.map_files) {
            None
        } else if plain {
            Mapping::of_file(&file).ok()
        } else {
            Mapping::of_device(&file).ok()
        };
        let origin = Origin::new(path, self.clone(), file, size);
        let source = match mapping {
            Some(mapping) => Source::Mapped { mapping, origin },
            None => Source::Pread { origin },
        };
        let clock = VmClock::of(source, self.max_wait, plain);
        // Once more through the way in which it will be read from now on.
        let snapshot = match clock.snapshot() {
            Ok(snapshot) => snapshot,
            Err(ReadError::Busy(error)) => return Err(OpenError::Busy { path: path.into(), error }),
            Err(ReadError::NotAPage(error)) => return Err(OpenError::NotAPage { path: path.into(), error }),
            Err(error) => return Err(io_error(path, "read the page", io::Error::other(error))),
        };
        snapshot.validate(len).map_err(|error| OpenError::NotAPage { path: path.into(), error })?;
        Ok(clock)
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A clock of a virtual machine.
///
/// Opening it maps the page; reading it takes some loads. It can be shared by any number of threads, which
/// do not slow each other down.
///
/// ```
/// # let page = vmclock::mock::MockPage::new();
/// # let clock = page.clock(); // in a machine with the device: VmClock::open()?
/// let before = clock.epoch()?;
/// let reading = clock.now()?;
/// println!("{:?} ± {:?} ns", reading.tai(), reading.max_error_nanos());
/// assert!(clock.is_current(&before)?, "migrated or restored meanwhile");
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct VmClock {
    /// The page, where it is mapped: in `source` as well, but from here one load nearer.
    mapping: Option<Mapping>,
    /// Whether the file behind the page can be cut short.
    plain_file: bool,
    max_wait: Duration,
    source: Arc<Source>,
}

impl VmClock {
    /// Opens the [default page](default_page) with the default options.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_at(default_page())
    }

    /// Opens the clock at `path` (a VMClock device or a plain file with a page in it) with the default options.
    pub fn open_at(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        OpenOptions::new().open(path)
    }

    pub(crate) fn of(source: Source, max_wait: Duration, plain_file: bool) -> Self {
        Self { mapping: source.mapping().cloned(), plain_file, max_wait, source: Arc::new(source) }
    }

    /// The time now, with its error bounds. No system call, no lock, no allocation. Whether the page is still published
    /// is for [`check`](Self::check) to find out.
    ///
    /// The counter is read after everything that the program loaded before, and before the page is checked to be
    /// still the same: two readings by one thread, or by two that wait for one another, are in order.
    #[inline(always)]
    pub fn now(&self) -> Result<Reading, ReadError> {
        self.read(counter::read_ordered)
    }

    /// The same without ordering: at half the price, and some tens of nanoseconds early or late relative to the
    /// instructions around it. For timing things, not for ordering them.
    #[inline(always)]
    pub fn now_unordered(&self) -> Result<Reading, ReadError> {
        self.read(counter::read_unordered)
    }

    /// What [`now`](Self::now) tries first, by itself, for bindings: gives `put` the words of
    /// [`Reading::from_words`], with their places in it. They are a reading only if this is `true`.
    #[doc(hidden)]
    #[inline(always)]
    pub fn try_put_now(&self, put: impl FnMut(usize, u64)) -> bool {
        self.try_put(put, counter::read_ordered)
    }

    /// The same without ordering.
    #[doc(hidden)]
    #[inline(always)]
    pub fn try_put_now_unordered(&self, put: impl FnMut(usize, u64)) -> bool {
        self.try_put(put, counter::read_unordered)
    }

    #[inline(always)]
    fn try_put(&self, put: impl FnMut(usize, u64), counter: impl Fn() -> u64) -> bool {
        match &self.mapping {
            Some(mapping) => mapping.page().try_put_time_words(counter::ID, self.plain_file, put, counter),
            None => false,
        }
    }

    #[inline(always)]
    fn try_read(&self, counter: impl FnMut() -> u64) -> Option<Reading> {
        let (words, counter) = self.mapping.as_ref()?.page().try_time_words(counter)?;
        if self.may_be_cut_short(Some(words.generation_word())) {
            return None;
        }
        Reading::of_words(words, counter, counter::ID)
    }

    #[inline(always)]
    fn read(&self, counter: impl FnMut() -> u64) -> Result<Reading, ReadError> {
        // What does not succeed at once is done anew, out of line: waiting needs what would be in the way of the
        // copying here.
        if let Some(reading) = self.try_read(counter) {
            return Ok(reading);
        }
        // By value, so that the result of the above need not be in memory, where this one is.
        match self.read_with_care() {
            Ok(reading) => Ok(reading.by_words()),
            Err(error) => Err(error),
        }
    }

    /// In a file that was cut short, what is lost reads as zero, and the generation counter is the last field. So a
    /// page that still has it is whole.
    #[inline]
    fn may_be_cut_short(&self, generation: Option<u64>) -> bool {
        matches!(generation, None | Some(0)) && self.plain_file
    }

    #[cold]
    fn read_with_care(&self) -> Result<Reading, ReadError> {
        let (snapshot, counter) = self.source.snapshot_with_counter(self.max_wait)?;
        self.check_len(&snapshot)?;
        let cpu = if let Source::Mock(_) = *self.source { snapshot.counter_id } else { counter::ID };
        Ok(Reading::new(&snapshot, counter, cpu)?)
    }

    /// Whether the file behind the page still has the page.
    fn check_len(&self, snapshot: &Snapshot) -> Result<(), ReadError> {
        match self.source.plain_file_len() {
            Some(len) => check_whole(snapshot, len),
            None => Ok(()),
        }
    }

    /// The machine's present epoch, that is, marker and generation: [`is_current`](Self::is_current) compares it with a
    /// later one, to find out whether the counter was disrupted, or the machine restored or cloned, meanwhile.
    #[inline]
    pub fn epoch(&self) -> Result<Epoch, ReadError> {
        if let Some(mapping) = &self.mapping {
            let epoch = mapping.page().epoch(Timeout::new(self.max_wait).into_closure())?;
            if !self.may_be_cut_short(epoch.generation) {
                return Ok(epoch);
            }
        }
        self.epoch_with_care()
    }

    /// Whether this is still the same epoch: neither was the counter disrupted, nor the machine restored or cloned.
    /// Costs about a nanosecond, so that it can be called before every use of what must be unique.
    ///
    /// ```
    /// # let page = vmclock::mock::MockPage::new();
    /// # let clock = page.clock(); // in a machine with the device: VmClock::open()?
    /// let mut known = clock.epoch()?;
    /// assert!(clock.is_current(&known)?);
    /// # page.restore();
    /// if !clock.is_current(&known)? {
    ///     known = clock.epoch()?; // first, so that nothing that happens from here on is missed
    ///     // Seed random generators anew, drop leases, connections and calibrations.
    /// }
    /// # assert!(clock.is_current(&known)?);
    /// # Ok::<(), vmclock::ReadError>(())
    /// ```
    #[inline]
    pub fn is_current(&self, known: &Epoch) -> Result<bool, ReadError> {
        if self.is_certainly_current(known) {
            return Ok(true);
        }
        self.is_current_with_care(known)
    }

    /// What [`is_current`](Self::is_current) tries first, by itself: `false` is no answer.
    #[doc(hidden)]
    #[inline(always)]
    pub fn is_certainly_current(&self, known: &Epoch) -> bool {
        match &self.mapping {
            Some(mapping) => mapping.page().is_still_of(known) && !self.may_be_cut_short(known.generation),
            None => false,
        }
    }

    #[cold]
    fn is_current_with_care(&self, known: &Epoch) -> Result<bool, ReadError> {
        Ok(self.epoch_with_care()? == *known)
    }

    #[cold]
    fn epoch_with_care(&self) -> Result<Epoch, ReadError> {
        Ok(Epoch::of(&self.snapshot()?))
    }

    /// The whole page at this moment, whether or not it gives a time.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let (snapshot, _) = self.source.snapshot_with_counter(self.max_wait)?;
        self.check_len(&snapshot)?;
        Ok(snapshot)
    }

    /// The page's time beside the system's clocks, all bracketed by counter readings.
    pub fn cross_timestamp(&self) -> Result<CrossTimestamp, ReadError> {
        CrossTimestamp::of(self)
    }

    /// Whether the page is still the one at the path where the clock was opened, and still a page.
    ///
    /// A reading does not find out: a file that was removed or replaced stays mapped, but no publisher writes to it any
    /// more. So call this now and then, or use [`events`](Self::events), which checks as well. It takes two or three
    /// system calls. A device has vanished when reading its node fails with `ENODEV`.
    ///
    /// ```
    /// # let page = vmclock::mock::MockPage::new();
    /// # let clock = page.clock(); // in a machine with the device: VmClock::open()?
    /// let reading = clock.now()?;
    /// clock.check()?; // afterwards: what was read before is of the published page
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Result<(), Vanished> {
        let loss = self.source.check().err();
        let loss = loss.or_else(|| self.snapshot().err().and_then(Loss::of));
        loss.map_or(Ok(()), |loss| Err(self.vanished(loss)))
    }

    pub(crate) fn vanished(&self, loss: Loss) -> Vanished {
        Vanished { path: self.path().into(), loss }
    }

    /// Opens the clock at the same path with the same options once more: what to do when its page has vanished.
    pub fn reopen(&self) -> Result<Self, OpenError> {
        match (&*self.source, self.source.origin()) {
            (_, Some(origin)) => origin.options.open(&origin.path),
            (Source::Mock(shared), _) if shared.is_removed() => Err(OpenError::NoFile { path: self.path().into() }),
            _ => Ok(self.clone()),
        }
    }

    /// Where the clock was opened, as an absolute path; `mock` for a mock.
    pub fn path(&self) -> &Path {
        self.source.origin().map_or(Path::new("mock"), |origin| &origin.path)
    }

    /// What happens to the machine and its clock from now on.
    pub fn events(&self) -> Result<Events, ReadError> {
        Events::of(self.clone())
    }

    /// Whether the page is mapped. Otherwise every reading costs system calls.
    pub const fn is_mapped(&self) -> bool {
        self.mapping.is_some()
    }

    /// Which counter this clock reads: this CPU's, or the mock's.
    pub fn counter_id(&self) -> CounterId {
        match *self.source {
            Source::Mock(_) => self.snapshot().map_or(CounterId::NONE, |page| page.counter_id),
            _ => counter::ID,
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

fn io_error(path: &Path, doing: &'static str, error: io::Error) -> OpenError {
    OpenError::Io { path: path.into(), doing, error }
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    // Not blocking, so that a FIFO without a writer does not hang us; and a terminal does not become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options().read(true).custom_flags(flags).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if is_for_devices(path) => no_device(path),
        io::ErrorKind::NotFound => OpenError::NoFile { path: path.into() },
        io::ErrorKind::PermissionDenied => OpenError::Permission { path: path.into() },
        _ if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => match std::fs::metadata(path) {
            Ok(metadata) if metadata.file_type().is_char_device() => no_device(path),
            Ok(metadata) => check_kind(path, &metadata).err().unwrap_or_else(|| io_error(path, "open it", error)),
            Err(_) => io_error(path, "open it", error),
        },
        _ => io_error(path, "open it", error),
    })
}

/// Whether device nodes are at paths like this. What others have there is shared memory.
pub(crate) fn is_for_devices(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

fn no_device(path: &Path) -> OpenError {
    match offered_by_hypervisor() {
        Some(seen_at) => OpenError::NoDriver { path: path.into(), seen_at },
        None => OpenError::NoDevice { path: path.into() },
    }
}

/// Where the machine shows a VMClock, in ACPI or in the device tree, driver or not.
fn offered_by_hypervisor() -> Option<PathBuf> {
    let entries = |folder: &str| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    // `acpi:AMZNC10C:VMCLOCK:`. The specification's name, the second, may be the only one.
    let acpi = entries("/sys/bus/acpi/devices")
        .find(|path| std::fs::read_to_string(path.join("modalias")).is_ok_and(|ids| ids.contains(":VMCLOCK:")));
    acpi.or_else(|| {
        entries("/sys/bus/platform/devices").find(|path| {
            let compatible = std::fs::read(path.join("of_node/compatible")).unwrap_or_default();
            compatible.split(|byte| *byte == 0).any(|name| name == b"amazon,vmclock")
        })
    })
}

/// Whether it is a plain file, and not a device.
fn check_kind(path: &Path, metadata: &Metadata) -> Result<bool, OpenError> {
    let kind = metadata.file_type();
    let wrong = |kind| Err(OpenError::WrongKind { path: path.into(), kind });
    match kind {
        _ if kind.is_file() => Ok(true),
        _ if kind.is_char_device() => Ok(false),
        _ if kind.is_dir() => wrong("directory"),
        _ if kind.is_fifo() => wrong("FIFO"),
        _ if kind.is_block_device() => wrong("block device"),
        _ => wrong("socket"),
    }
}

/// Reads the page through the file and checks what is constant in it. Returns the page's own size, and how many of the
/// structure's bytes there are.
///
/// A page in the middle of an update is checked too once the wait is over: that it is not a page is more useful to know
/// than that it is busy.
fn check_page(path: &Path, file: &File, max_wait: Duration) -> Result<(u32, usize), OpenError> {
    let not_a_page = |error| OpenError::NotAPage { path: path.into(), error };
    let mut timeout = Timeout::new(max_wait);
    loop {
        match pread(file) {
            Ok(copied) => {
                let snapshot = Snapshot::from_bytes(&copied.bytes);
                let checked = snapshot.validate(copied.len);
                if snapshot.seq_count & 1 == 0 {
                    return checked.map(|()| (snapshot.size, copied.len)).map_err(not_a_page);
                }
                if !timeout.allows_retry() {
                    checked.map_err(not_a_page)?;
                    let error = vmclock_core::page::Busy::at(snapshot.seq_count);
                    return Err(OpenError::Busy { path: path.into(), error });
                }
            }
            Err(ReadError::Vanished { len }) => {
                return Err(not_a_page(ParseError::TooShort { len: usize::try_from(len).unwrap_or(usize::MAX) }))
            }
            Err(ReadError::Busy(error)) => return Err(OpenError::Busy { path: path.into(), error }),
            Err(ReadError::Io { errno }) => return Err(io_error(path, "read it", io::Error::from_raw_os_error(errno))),
            Err(error) => return Err(io_error(path, "read it", io::Error::other(error))),
        }
    }
}
