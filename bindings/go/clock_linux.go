// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Clock is a clock of a virtual machine. Opening it maps the page; reading it takes some loads. Any number of goroutines
// may use it at once, and they do not slow each other down.
type Clock struct {
	// The page, where it is mapped and the clock is not closed.
	page unsafe.Pointer // *sharedPage, accessed atomically
	// Whether a plain file is behind the page, which can be cut short.
	plain   bool
	mapping *mapping
	options Options
	path    string
	file    *os.File
	// How many bytes the file needs for all fields of its page.
	needed int64
	// Whether the file had a name when it was opened. A memfd has none, and has not vanished.
	hadName bool
}

// OpenPath opens the clock at path: a VMClock device, or a plain file with a page in it. The error is an *OpenError.
func (o Options) OpenPath(path string) (*Clock, error) {
	file, err := openFile(path)
	if err != nil {
		return nil, err
	}
	clock, err := o.openFile(path, file)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return clock, nil
}

func (o Options) openFile(path string, file *os.File) (*Clock, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, &OpenError{path, OpenIO, err, "get its metadata"}
	}
	plain, err := checkKind(path, info)
	if err != nil {
		return nil, err
	}
	page, length, err := checkPage(path, file, o.maxWait())
	if err != nil {
		return nil, err
	}
	needed := int64(page.Size)
	if needed > structureLen {
		needed = structureLen
	}
	clock := &Clock{
		plain: plain, options: o, path: absolute(path), file: file, needed: needed, hadName: links(info) > 0,
	}
	if !o.NoMap && !(plain && (o.NoMapFiles || raceDetector)) {
		// Where mapping is refused, the page is read through the file.
		if clock.mapping, err = newMapping(file); err == nil {
			atomic.StorePointer(&clock.page, unsafe.Pointer(clock.mapping.page()))
		}
	}
	// Once more in the way in which it will be read from now on.
	snapshot, err := clock.Snapshot()
	if err == nil {
		err = snapshot.validate(length)
	}
	if err != nil {
		return nil, openErrorOf(path, err)
	}
	return clock, nil
}

// openErrorOf is the error of opening a clock where reading it failed.
func openErrorOf(path string, err error) *OpenError {
	var busy *BusyError
	var notAPage *NotAPageError
	switch {
	case errors.As(err, &busy):
		return &OpenError{path, OpenBusy, busy, ""}
	case errors.As(err, &notAPage):
		return &OpenError{path, OpenNotAPage, notAPage, ""}
	}
	return &OpenError{path, OpenIO, err, "read it"}
}

// Now is the time now, with its error bounds. It makes no system call, takes no lock and allocates nothing. Whether the
// page is still published is for Check to find out.
//
// The counter is read after everything that the goroutine loaded before, and before the page is checked to be still the
// same: two readings by one goroutine, or by two that wait for one another, are in order.
//
// The error is a *NoTimeError, a *BusyError or a *VanishedError (the page was lost under the reading), or the system's.
func (c *Clock) Now() (r Reading, err error) {
	err = c.Read(&r)
	return
}

// Read is Now into a Reading of the caller's, which saves copying it. Where it fails, the reading is zero.
func (c *Clock) Read(r *Reading) error {
	if page := c.mapped(); page != nil && page.read(r, true, c.plain) {
		runtime.KeepAlive(c)
		return nil
	}
	return c.readWithCare(r)
}

// NowUnordered is Now without ordering: cheaper, and some tens of nanoseconds early or late relative to the
// instructions around it. For timing things, not for ordering them.
func (c *Clock) NowUnordered() (r Reading, err error) {
	err = c.readUnordered(&r)
	return
}

func (c *Clock) readUnordered(r *Reading) error {
	if page := c.mapped(); page != nil && page.read(r, false, c.plain) {
		runtime.KeepAlive(c)
		return nil
	}
	return c.readWithCare(r)
}

// mapped is the page, where it is mapped and the clock is not closed.
func (c *Clock) mapped() *sharedPage {
	return (*sharedPage)(atomic.LoadPointer(&c.page))
}

// readWithCare waits for updates, asks for the file's length, and finds the reason where there is no time.
func (c *Clock) readWithCare(r *Reading) error {
	snapshot, counter, err := c.snapshotWithCounter(c.options.maxWait())
	*r = Reading{}
	if err == nil {
		*r, err = snapshot.At(counter, cpuCounter)
	}
	return err
}

// Epoch is the machine's present epoch: IsCurrent compares it with a later one, to find out whether the counter was
// disrupted, or the machine restored or cloned, meanwhile.
func (c *Clock) Epoch() (Epoch, error) {
	snapshot, err := c.Snapshot()
	return snapshot.Epoch(), err
}

// IsCurrent tells whether this is still the same epoch: neither was the counter disrupted, nor the machine restored or
// cloned. It costs some nanoseconds, so that it can be called before every use of what must be unique.
//
//	known, err := clock.Epoch()
//	...
//	current, err := clock.IsCurrent(known)
//	if err == nil && !current {
//		known, err = clock.Epoch() // first, so that nothing that happens from here on is missed
//		// Seed random generators anew, drop leases, connections and calibrations.
//	}
func (c *Clock) IsCurrent(known Epoch) (bool, error) {
	var still bool
	page := c.mapped()
	switch {
	case page == nil:
	case c.plain:
		// A file that was cut short has no generation: see (*sharedPage).read.
		still = known.HasGeneration && known.Generation != 0 && page.isStillOfGuarded(&known)
	default:
		still = page.isStillOf(&known)
	}
	runtime.KeepAlive(c)
	if still {
		return true, nil
	}
	now, err := c.Epoch()
	return err == nil && now == known, err
}

// Snapshot is the whole page at this moment, whether or not it gives a time.
func (c *Clock) Snapshot() (Snapshot, error) {
	snapshot, _, err := c.snapshotWithCounter(c.options.maxWait())
	return snapshot, err
}

// snapshotWithCounter is a validated snapshot, and the counter at a moment within it.
func (c *Clock) snapshotWithCounter(maxWait time.Duration) (Snapshot, uint64, error) {
	var snapshot Snapshot
	var counter uint64
	var err error
	if page := c.mapped(); page != nil {
		snapshot, counter, err = c.mappedSnapshot(page, maxWait)
		runtime.KeepAlive(c)
	} else {
		snapshot, counter, err = c.preadSnapshot(maxWait)
	}
	if err != nil {
		return Snapshot{}, 0, err
	}
	if c.plain {
		info, err := c.file.Stat()
		if err != nil {
			return Snapshot{}, 0, cannotRead(err)
		}
		if err := c.checkWhole(&snapshot, info.Size()); err != nil {
			return Snapshot{}, 0, err
		}
	}
	return snapshot.clipped(), counter, nil
}

func (c *Clock) mappedSnapshot(page *sharedPage, maxWait time.Duration) (Snapshot, uint64, error) {
	wait := timeout{max: maxWait}
	for {
		var w words
		var counter uint64
		var ok bool
		if c.plain {
			counter, ok = page.tryLoadGuarded(&w)
		} else {
			counter, ok = page.tryLoad(&w)
		}
		if ok {
			return w.decode(), counter, nil
		}
		if c.plain {
			// Not ok may also mean that the page is lost, and waiting for that is in vain.
			info, err := c.file.Stat()
			if err != nil {
				return Snapshot{}, 0, cannotRead(err)
			}
			if info.Size() < minRegionLen {
				return Snapshot{}, 0, c.cut(info.Size())
			}
		}
		if !wait.allowsRetry() {
			return Snapshot{}, 0, &BusyError{c.lastSeq(page)}
		}
	}
}

// lastSeq is the sequence count of a page that is busy.
func (c *Clock) lastSeq(page *sharedPage) (seq uint32) {
	if !c.plain {
		return page.loadSeq()
	}
	return page.loadSeqGuarded()
}

// preadSnapshot makes two equal copies, with the counter read between them. A driver copies consistently by itself; a
// plain file is copied while its writer may be at work, and then the count, or a word, differs between the two copies.
func (c *Clock) preadSnapshot(maxWait time.Duration) (Snapshot, uint64, error) {
	wait := timeout{max: maxWait}
	before, _, err := c.pread(c.file)
	if err != nil {
		return Snapshot{}, 0, err
	}
	for {
		counter := counterOrdered()
		after, length, err := c.pread(c.file)
		if err != nil {
			return Snapshot{}, 0, err
		}
		snapshot := decode(&after)
		if before == after && snapshot.SeqCount&1 == 0 {
			return snapshot, counter, c.checkWhole(&snapshot, int64(length))
		}
		if !wait.allowsRetry() {
			return Snapshot{}, 0, &BusyError{snapshot.SeqCount}
		}
		before = after
	}
}

// checkWhole tells whether a snapshot is of a page that is all there, in a file of so many bytes. What lies beyond the
// end reads as zero, so that a short file explains whatever is wrong with it.
func (c *Clock) checkWhole(snapshot *Snapshot, length int64) error {
	bounded := length
	if bounded > structureLen {
		bounded = structureLen
	}
	err := snapshot.validate(int(bounded))
	switch {
	case err == nil:
		return nil
	case length < structureLen:
		return c.cut(length)
	}
	return &VanishedError{Path: c.path, Loss: LossOverwritten, Err: err}
}

func (c *Clock) cut(length int64) error {
	return &VanishedError{Path: c.path, Loss: LossCut, Len: length}
}

// pread reads the structure from the start of a file. For an open file of a device this also marks all updates up to now
// as seen.
func (c *Clock) pread(file *os.File) ([structureLen]byte, int, error) {
	bytes, length, err := pread(file)
	switch {
	case errors.Is(err, syscall.ENODEV):
		err = &VanishedError{Path: c.path, Loss: LossDevice, Err: err}
	case err != nil:
	case length < minRegionLen:
		err = c.cut(int64(length))
	}
	return bytes, length, err
}

func pread(file *os.File) (bytes [structureLen]byte, length int, err error) {
	length, err = file.ReadAt(bytes[:], 0)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		err = nil
	case errors.Is(err, syscall.ETIMEDOUT):
		// The driver's word for a page that stays odd.
		err = &BusyError{1}
	default:
		err = cannotRead(err)
	}
	return bytes, length, err
}

func cannotRead(err error) error {
	return fmt.Errorf("cannot read the page: %w: open the clock again", err)
}

// Check tells whether the page is still the one at the path where the clock was opened, and still a page. The error is a
// *VanishedError.
//
// A reading does not find out: a file that was removed or replaced stays mapped, but no publisher writes to it any more.
// So call this now and then, or use Events, which checks as well. It takes two or three system calls.
func (c *Clock) Check() error {
	if err := c.checkOrigin(); err != nil {
		return err
	}
	var vanished *VanishedError
	if _, err := c.Snapshot(); errors.As(err, &vanished) {
		return vanished
	}
	return nil
}

// checkOrigin tells whether the page is still there, as far as it can be known: nothing follows from a path that this
// process may not, or after a chroot cannot, follow, as long as the file has a name somewhere.
func (c *Clock) checkOrigin() error {
	ours, err := c.file.Stat()
	if err != nil {
		return nil
	}
	if !c.plain {
		// A node can be made anew for the same device: what counts is whether its driver has the device.
		var vanished *VanishedError
		if _, _, err := c.pread(c.file); errors.As(err, &vanished) {
			return vanished
		}
		return nil
	}
	there, err := os.Stat(c.path)
	switch {
	case err == nil && !os.SameFile(ours, there):
		return &VanishedError{Path: c.path, Loss: LossReplaced}
	case links(ours) == 0 && c.hadName:
		return &VanishedError{Path: c.path, Loss: LossRemoved}
	case ours.Size() < c.needed:
		return c.cut(ours.Size())
	}
	return nil
}

// Reopen opens the clock at the same path with the same options once more: what to do when its page has vanished. This
// clock stays open.
func (c *Clock) Reopen() (*Clock, error) {
	return c.options.OpenPath(c.path)
}

// Close closes the clock: from now on its methods fail with os.ErrClosed. Readings under way in other goroutines are
// not disturbed.
func (c *Clock) Close() error {
	atomic.StorePointer(&c.page, nil)
	return c.file.Close()
}

// Path is where the clock was opened, as an absolute path.
func (c *Clock) Path() string { return c.path }

// IsMapped tells whether the page is mapped. Otherwise every reading costs system calls.
func (c *Clock) IsMapped() bool { return c.mapped() != nil }

func openFile(path string) (*os.File, error) {
	// Not blocking, so that a FIFO without a writer does not hang us; and a terminal does not become ours.
	const flags = syscall.O_RDONLY | syscall.O_CLOEXEC | syscall.O_NONBLOCK | syscall.O_NOCTTY
	for {
		fd, err := syscall.Open(path, flags, 0)
		if err == nil {
			// From here on as files are: Go does not poll it.
			_ = syscall.SetNonblock(fd, false)
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != syscall.EINTR {
			return nil, cannotOpen(path, err)
		}
	}
}

func cannotOpen(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && isForDevices(path):
		return noDevice(path, err)
	case errors.Is(err, fs.ErrNotExist):
		return &OpenError{path, OpenNoFile, err, ""}
	case errors.Is(err, fs.ErrPermission):
		return &OpenError{path, OpenPermission, err, ""}
	case errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENODEV):
		info, statErr := os.Stat(path)
		switch {
		case statErr != nil:
		case info.Mode()&fs.ModeCharDevice != 0:
			return noDevice(path, fs.ErrNotExist)
		default:
			if _, kindErr := checkKind(path, info); kindErr != nil {
				return kindErr
			}
		}
	}
	return &OpenError{path, OpenIO, err, "open it"}
}

func noDevice(path string, err error) error {
	if seenAt := offeredByHypervisor(); seenAt != "" {
		return &OpenError{path, OpenNoDriver, err, seenAt}
	}
	return &OpenError{path, OpenNoDevice, err, ""}
}

// offeredByHypervisor is where the machine shows a VMClock, in ACPI or in the device tree, driver or not.
func offeredByHypervisor() string {
	// acpi:AMZNC10C:VMCLOCK:. The specification's name, the second, may be the only one.
	acpi, _ := filepath.Glob("/sys/bus/acpi/devices/*")
	for _, path := range acpi {
		if ids, err := os.ReadFile(path + "/modalias"); err == nil && strings.Contains(string(ids), ":VMCLOCK:") {
			return path
		}
	}
	platform, _ := filepath.Glob("/sys/bus/platform/devices/*")
	for _, path := range platform {
		compatible, _ := os.ReadFile(path + "/of_node/compatible")
		for _, name := range strings.Split(string(compatible), "\x00") {
			if name == "amazon,vmclock" {
				return path
			}
		}
	}
	return ""
}

// checkKind tells whether it is a plain file, and not a device.
func checkKind(path string, info os.FileInfo) (plain bool, err error) {
	wrong := func(kind string) (bool, error) { return false, &OpenError{path, OpenWrongKind, nil, kind} }
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return true, nil
	case mode&fs.ModeCharDevice != 0:
		return false, nil
	case mode.IsDir():
		return wrong("directory")
	case mode&fs.ModeNamedPipe != 0:
		return wrong("FIFO")
	case mode&fs.ModeDevice != 0:
		return wrong("block device")
	}
	return wrong("socket")
}

// checkPage reads the page through the file and checks what is constant in it. A page in the middle of an update is
// checked too once the wait is over: that it is not a page is more useful to know than that it is busy.
func checkPage(path string, file *os.File, maxWait time.Duration) (Snapshot, int, error) {
	wait := timeout{max: maxWait}
	for {
		bytes, length, err := pread(file)
		if err != nil {
			return Snapshot{}, 0, openErrorOf(path, err)
		}
		if length < minRegionLen {
			return Snapshot{}, 0, &OpenError{path, OpenNotAPage, tooShort(length), ""}
		}
		snapshot := decode(&bytes)
		err = snapshot.validate(length)
		isOdd := snapshot.SeqCount&1 != 0
		if isOdd && wait.allowsRetry() {
			continue
		}
		if err == nil && isOdd {
			err = &BusyError{snapshot.SeqCount}
		}
		if err != nil {
			return Snapshot{}, 0, openErrorOf(path, err)
		}
		return snapshot, length, nil
	}
}

// absolute leads to the same file when the program changes its directory.
func absolute(path string) string {
	if here, err := os.Getwd(); err == nil && !filepath.IsAbs(path) {
		// Not cleaned: what comes before ".." may be a link.
		return here + "/" + path
	}
	return path
}

func links(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}

// timeout is how long a reader waits for an update to end. The time starts when the first attempt has failed.
type timeout struct {
	max     time.Duration
	since   time.Time
	retries uint
}

// allowsRetry yields the CPU now and then: the writer may be waiting for it.
func (t *timeout) allowsRetry() bool {
	t.retries++
	if t.retries%16 == 0 {
		runtime.Gosched()
	}
	if t.since.IsZero() {
		t.since = time.Now()
	}
	return time.Since(t.since) < t.max
}
