// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest on arm64, which finds the clock by its device tree: QEMU's board `virt`, with a node of ours merged into its
//! tree.
//!
//! Its RAM is a file, whose end the tree reserves for the page. Nobody publishes there but the harness itself: the
//! counter under TCG is no host's, and `vmclock qemu` is for x86-64.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;
use vm_fdt::FdtWriter;
use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType, MAGIC, STRUCTURE_LEN, VERSION};
use vmclock_core::calibration::Period;
use vmclock_e2e_guest::{REFUSED, REGION_LEN};
use vmclock_vmm::fdt::{add_node, Interrupt};

use crate::checks::TAI_MINUS_UTC;
use crate::patience::{connect, PATIENCE};
use crate::qmp::Qmp;
use crate::region::Region;

/// Where the board has its RAM, and how much of it, as [`machine`](crate::machine) says.
const RAM: u64 = 0x4000_0000;
const RAM_LEN: u64 = 256 << 20;
/// The region in which the page lies is the RAM's end.
const REGION: u64 = RAM + RAM_LEN - REGION_LEN as u64;
const PAGE: u64 = 4096;

/// None of the board's own devices has it.
const SPI: u32 = 100;
/// With 10^9 Hz a tick of the guest's counter is a nanosecond of QEMU's time, which is the host's.
const FREQUENCY: NonZeroU64 = NonZeroU64::new(1_000_000_000).unwrap();
/// By how much the host's clock may be steered, in parts per 10^12.
const STEERED: u64 = 500_000_000;

/// A node like the clock's.
pub(crate) struct OtherNode {
    pub(crate) name: &'static str,
    /// What is in its `reg`.
    ranges: &'static [u64],
    /// The page there, as far as it differs from the clock's. Where there is none, no driver may take the memory.
    pub(crate) page: Option<fn(&mut Snapshot)>,
    /// What our driver says to it.
    pub(crate) says: &'static str,
}

const fn refused(name: &'static str, ranges: &'static [u64], says: &'static str) -> OtherNode {
    OtherNode { name, ranges, page: None, says }
}

/// At boot there are only zeros behind the page: for Linux's own driver, which is there first, these are no pages at
/// all, so that it leaves them alone.
pub(crate) const OTHER_NODES: [OtherNode; 8] = [
    refused("unaligned", &[REGION + PAGE + 4, PAGE], "aligned to 8"),
    refused("tiny", &[REGION + 2 * PAGE, 0x18], "cannot hold the page"),
    refused("double", &[REGION + 3 * PAGE, PAGE, REGION + 4 * PAGE, PAGE], "more than one memory range"),
    refused("ram", &[RAM + RAM_LEN / 4 * 3, PAGE], "in this machine's RAM"),
    refused("nowhere", &[], "no memory range"),
    refused("beyond", &[REGION + 6 * PAGE - 0x20, 0x20], "end of a page"),
    // Without errors and generation, which lie beyond.
    OtherNode {
        name: SHORT,
        ranges: &[REGION + 6 * PAGE, SHORT_LEN],
        page: Some(|page| page.size = 0x58),
        says: "registered PTP clock",
    },
    OtherNode {
        name: BROKEN,
        ranges: &[REGION + 7 * PAGE, PAGE],
        page: Some(|page| page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT)),
        says: "registered device node, PTP clock",
    },
];
/// A region that ends behind the reference time.
const SHORT: &str = "short";
const SHORT_LEN: u64 = 0x58;
/// A node whose interrupt is nonsense, but whose page does not notify.
const BROKEN: &str = "broken";

impl OtherNode {
    /// Puts the page there, if there is to be one.
    pub(crate) fn fill(&self, folder: &Path, clock: &Snapshot) -> Result<()> {
        let (Some(change), Some(start)) = (self.page, self.ranges.first()) else { return Ok(()) };
        let mut page = *clock;
        change(&mut page);
        let bytes = page.to_bytes();
        // A field beyond the region is somebody else's.
        let len = usize::try_from(page.size)?.min(STRUCTURE_LEN);
        let mut all = [0xff; STRUCTURE_LEN];
        all[..len].copy_from_slice(&bytes[..len]);
        Region::open_at(&ram_in(folder), start - RAM)?.set_bytes(&all)
    }
}

/// What such a guest needs.
#[derive(clap::Args)]
pub(crate) struct Arm {
    /// QEMU, as `qemu-system-aarch64`: for a guest on arm64 too
    #[arg(id = "arm-qemu", long = "arm-qemu", required = false, value_name = "QEMU")]
    pub(crate) qemu: PathBuf,

    /// The program that merges overlays into device trees
    #[arg(id = "arm-fdtoverlay", long = "arm-fdtoverlay", required = false, value_name = "PROGRAM")]
    fdtoverlay: PathBuf,

    /// A kernel for arm64, with Linux's own driver built in
    #[arg(id = "arm-kernel", long = "arm-kernel", required = false, value_name = "IMAGE")]
    pub(crate) kernel: PathBuf,

    /// Our driver for it
    #[arg(id = "arm-driver", long = "arm-driver", required = false, value_name = "MODULE")]
    pub(crate) driver: PathBuf,

    /// The guest's first program
    #[arg(id = "arm-init", long = "arm-init", required = false, value_name = "PROGRAM")]
    pub(crate) init: PathBuf,
}

impl Arm {
    /// Makes the RAM with a page in it, and the device tree. Gives what QEMU has to be told of the board.
    pub(crate) fn make_board(&self, folder: &Path) -> Result<Vec<String>> {
        let ram = ram_in(folder);
        File::create(&ram)
            .and_then(|file| file.set_len(RAM_LEN))
            .with_context(|| format!("cannot make {}", ram.display()))?;
        region_in(folder)?.set_bytes(&blank().to_bytes())?;
        let tree = self.make_tree(folder)?;
        let ram = ram.display();
        let words = [
            "-machine".to_owned(),
            "virt,memory-backend=ram".to_owned(),
            "-object".to_owned(),
            format!("memory-backend-file,id=ram,size={RAM_LEN},mem-path={ram},share=on"),
            "-dtb".to_owned(),
            tree.display().to_string(),
            // The way to the interrupt controller's inputs; without a log, which would be among the errors.
            "-qtest".to_owned(),
            format!("unix:{},server=on,wait=off", bell_in(folder).display()),
            "-qtest-log".to_owned(),
            "none".to_owned(),
        ];
        Ok(cpu().into_iter().chain(words).collect())
    }

    /// QEMU's own tree, and our nodes in it.
    fn make_tree(&self, folder: &Path) -> Result<PathBuf> {
        let path = |name: &str| folder.join(name);
        let (own, overlay, merged) = (path("own.dtb"), path("overlay.dtbo"), path("merged.dtb"));
        fs::write(&overlay, overlay_of_ours().context("cannot write a device tree")?)
            .with_context(|| format!("cannot write {}", overlay.display()))?;
        let mut dump = Command::new(&self.qemu);
        dump.args(cpu()).args(["-machine", &format!("virt,dumpdtb={}", own.display())]);
        run(dump.args(["-m", "256", "-nodefaults", "-no-user-config", "-display", "none"]))?;
        run(Command::new(&self.fdtoverlay).arg("-i").arg(&own).arg("-o").arg(&merged).arg(&overlay))?;
        Ok(merged)
    }
}

/// What the file of the RAM is called.
fn ram_in(folder: &Path) -> PathBuf {
    folder.join("ram")
}

pub(crate) fn region_in(folder: &Path) -> Result<Region> {
    Region::open_at(&ram_in(folder), REGION - RAM)
}

/// The socket by which QEMU takes interrupts from outside.
fn bell_in(folder: &Path) -> PathBuf {
    folder.join("bell")
}

fn cpu() -> [String; 4] {
    ["-accel", "tcg", "-cpu", &format!("cortex-a72,cntfrq={FREQUENCY}")].map(str::to_owned)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", command.get_program().display(), said.trim_end());
    Ok(())
}

/// What an overlay's node has to be called, which is no name for a node of a tree, so that `FdtWriter` refuses it; and
/// one as long.
const OVERLAY: &str = "__overlay__";
const STANDS_FOR_OVERLAY: &str = "the-overlay";

/// An overlay for the root, whose cells are two for an address and two for a length.
fn overlay_of_ours() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    let fragment = tree.begin_node("fragment@0")?;
    tree.property_string("target-path", "/")?;
    let overlay = tree.begin_node(STANDS_FOR_OVERLAY)?;

    let reserved = tree.begin_node("reserved-memory")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    let region = tree.begin_node(&format!("clock@{REGION:x}"))?;
    tree.property_array_u64("reg", &[REGION, REGION_LEN as u64])?;
    tree.property_null("no-map")?;
    tree.end_node(region)?;
    tree.end_node(reserved)?;

    add_node(&mut tree, REGION, PAGE, Some(Interrupt { spi: SPI }))?;
    for OtherNode { name, ranges, .. } in OTHER_NODES {
        let unit = ranges.first().map(|address| format!("@{address:x}")).unwrap_or_default();
        let node = tree.begin_node(&format!("{name}{REFUSED}{unit}"))?;
        tree.property_string("compatible", "amazon,vmclock")?;
        if !ranges.is_empty() {
            tree.property_array_u64("reg", ranges)?;
        }
        if name == BROKEN {
            // The controller takes three cells.
            tree.property_array_u32("interrupts", &[0xffff_ffff, 7, 0xffff_ffff])?;
        }
        tree.end_node(node)?;
    }

    tree.end_node(overlay)?;
    tree.end_node(fragment)?;
    tree.end_node(root)?;
    let mut blob = tree.finish()?;
    let place = blob.windows(OVERLAY.len()).position(|bytes| bytes == STANDS_FOR_OVERLAY.as_bytes());
    if let Some(name) = place.and_then(|start| blob.get_mut(start..start + OVERLAY.len())) {
        name.copy_from_slice(OVERLAY.as_bytes());
    }
    Ok(blob)
}

/// A page that gives no time yet.
fn blank() -> Snapshot {
    let period = Period::from_frequency(FREQUENCY);
    let mut page = Snapshot::from_bytes(&[0; STRUCTURE_LEN]);
    page.magic = MAGIC;
    page.size = 4096;
    page.version = VERSION;
    page.counter_id = CounterId::ARM_CNTVCT;
    page.time_type = TimeType::TAI;
    page.clock_status = ClockStatus::INITIALIZING;
    page.disruption_marker = 0x1000;
    page.vm_generation_counter = 0x2000;
    page.tai_offset_sec = i16::try_from(-TAI_MINUS_UTC).unwrap_or_default();
    page.flags = [Flags::TIME_MAXERROR_VALID, Flags::VM_GEN_COUNTER_PRESENT, Flags::NOTIFICATION_PRESENT]
        .into_iter()
        .fold(Flags::TAI_OFFSET_VALID.with(Flags::PERIOD_MAXERROR_VALID), Flags::with);
    page.counter_period_shift = period.shift();
    page.counter_period_frac_sec = period.frac();
    page.counter_period_maxerror_rate_frac_sec = period.error_rate(STEERED);
    page
}

/// The harness as a publisher, with a bell that it rings in the guest.
pub(crate) struct Publisher {
    bell: UnixStream,
    /// QEMU's name for the interrupt controller.
    controller: String,
}

impl Publisher {
    pub(crate) fn connect(folder: &Path, qmp: &mut Qmp) -> Result<Self> {
        let bell = connect(&bell_in(folder), PATIENCE)?;
        bell.set_read_timeout(Some(PATIENCE))?;
        let parent = "/machine/unattached";
        let parts = qmp.run("qom-list", &json!({ "path": parent }))?;
        let controller = parts.as_array().into_iter().flatten().find(|part| part["type"] == "child<arm_gic>");
        let name = controller.and_then(|part| part["name"].as_str());
        let name = name.with_context(|| format!("QEMU has no arm_gic in {parent}: {parts}"))?;
        Ok(Self { bell, controller: format!("{parent}/{name}") })
    }

    /// Gives the page the time that it was when the guest's counter had a value: in TAI nanoseconds, and by how many it
    /// may be off.
    pub(crate) fn calibrate(&self, region: &Region, counter: u64, time: i128, off: i128) -> Result<()> {
        let seconds = u64::try_from(time / 1_000_000_000)?;
        let nanos = u128::try_from(time % 1_000_000_000)?;
        let fraction = u64::try_from((nanos << 64) / 1_000_000_000)?;
        let off = u64::try_from(off)?;
        self.update(region, |page| {
            page.clock_status = ClockStatus::SYNCHRONIZED;
            page.counter_value = counter;
            page.time_sec = seconds;
            page.time_frac_sec = fraction;
            page.time_maxerror_nanosec = off;
        })
    }

    /// What an operator may tell a publisher.
    pub(crate) fn signal(&self, region: &Region, what: &str) -> Result<()> {
        match what {
            "clear" => self.update(region, |_| ()),
            "migrate" => self.update(region, |page| page.disruption_marker += 1),
            "clone" => self.update(region, |page| page.vm_generation_counter += 1),
            other => bail!("this publisher does not know the word {other:?}: add it here"),
        }
    }

    /// An update as the page's protocol has it: the sequence count odd, the fields, the count even, the bell.
    fn update(&self, region: &Region, change: impl FnOnce(&mut Snapshot)) -> Result<()> {
        let mut page = Snapshot::from_bytes(&region.bytes()?);
        page.seq_count = (page.seq_count | 1).wrapping_add(2);
        region.set_bytes(&page.to_bytes())?;
        change(&mut page);
        region.set_bytes(&page.to_bytes())?;
        page.seq_count = page.seq_count.wrapping_add(1);
        region.set_bytes(&page.to_bytes())?;
        self.ring()
    }

    /// An edge of the interrupt's line.
    pub(crate) fn ring(&self) -> Result<()> {
        for level in [1, 0] {
            let line = format!("set_irq_in {} unnamed-gpio-in {SPI} {level}", self.controller);
            writeln!(&self.bell, "{line}").with_context(|| format!("cannot tell QEMU {line:?}"))?;
            let mut answer = String::new();
            BufReader::new(&self.bell)
                .read_line(&mut answer)
                .with_context(|| format!("QEMU does not answer {line:?}"))?;
            ensure!(answer.trim() == "OK", "QEMU answers {line:?} by {answer:?}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_time_is_one_all_the_same() {
        let page = blank();
        assert_eq!(page.validate(4096), Ok(()));
        assert!(page.notifies() && page.generation().is_some());
    }

    #[test]
    fn the_overlay_has_a_node_for_the_clock_and_one_for_each_that_is_refused() {
        let blob = overlay_of_ours().unwrap();
        let count = |word: &[u8]| blob.windows(word.len()).filter(|bytes| *bytes == word).count();
        assert_eq!(count(b"amazon,vmclock\0"), 1 + OTHER_NODES.len());
        assert_eq!(count(b"ptp@4fff0000\0"), 1);
        assert_eq!(count(b"nowhere-clock\0"), 1);
        assert_eq!((count(OVERLAY.as_bytes()), count(STANDS_FOR_OVERLAY.as_bytes())), (1, 0));
    }
}
