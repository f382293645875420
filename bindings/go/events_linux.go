// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	defaultInterval = 10 * time.Millisecond
	minInterval     = 100 * time.Microsecond
)

// Events waits for something to happen to a machine, from the moment when it was made.
//
// Where the device notifies, the kernel wakes it after each update; where it does not, a timer does, every Interval.
// Either way only real changes are reported: most updates are mere refreshes of the calibration. One goroutine at a time
// may use it.
//
// A page can vanish, as when its file is removed. Then its path is tried every Interval until there is a page again. The
// two are compared like any two snapshots, so that no disruption between them is missed.
type Events struct {
	// Interval is how often a page is polled whose device does not notify, and the path of a page that vanished: every
	// 10 ms where this is 0, and at most every 100 us.
	Interval time.Duration
	// Refreshes has refreshes of the calibration count as changes too.
	Refreshes bool

	clock *Clock
	last  Snapshot
	// The page that is open is not the published one any more, but its last publisher may still write to it.
	vanished bool
	// The clocks opened here, which Close closes.
	reopened bool
	// The device, opened anew, as the kernel keeps for each open file what it has seen. Nil for a file.
	device *os.File
	// What waits for the device; nil where a timer has to do.
	waker *waker
}

// Events reports what happens to the machine and its clock from now on.
func (c *Clock) Events() (*Events, error) {
	last, err := c.Snapshot()
	if err != nil {
		return nil, err
	}
	e := &Events{clock: c, last: last}
	e.openDevice()
	return e, nil
}

// openDevice prepares waiting for the clock's device.
func (e *Events) openDevice() {
	if e.clock.plain {
		return
	}
	device, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", e.clock.file.Fd()))
	if err != nil {
		return
	}
	e.device = device
	// Refused (EPERM) by a driver without poll, Linux before 7.0, whatever the page's flags are. A timer does.
	e.waker, _ = newWaker(device)
}

func (e *Events) closeDevice() {
	if e.waker != nil {
		e.waker.close()
	}
	if e.device != nil {
		_ = e.device.Close()
	}
	e.device, e.waker = nil, nil
}

// Close ends the waiting; Wait must not be under way. The clock that Events was made of stays open.
func (e *Events) Close() error {
	e.closeDevice()
	if e.reopened {
		return e.clock.Close()
	}
	return nil
}

// Clock is the clock whose page is watched: after Returned another than the one that this was made of. Close closes it.
func (e *Events) Clock() *Clock { return e.clock }

// Notified tells whether the device wakes us, rather than a timer.
func (e *Events) Notified() bool {
	return e.waker != nil && e.last.notifies() && !e.vanished
}

func (e *Events) interval() time.Duration {
	switch {
	case e.Interval == 0:
		return defaultInterval
	case e.Interval < minInterval:
		return minInterval
	}
	return e.Interval
}

// Wait waits for the next notice, until the context is done: then the error is the context's. What has happened already
// is reported even where the context is done.
//
// An error is no end: the next call tries again. A *BusyError ends when the page's publisher is replaced.
func (e *Events) Wait(ctx context.Context) (*Notice, error) {
	for {
		if notice, err := e.poll(); notice != nil || err != nil {
			return notice, err
		}
		if loss, err := e.sleep(ctx); loss != nil || err != nil {
			if loss != nil {
				return e.lose(loss), nil
			}
			return nil, err
		}
	}
}

// sleep sleeps until it is time to poll, or the device is lost.
func (e *Events) sleep(ctx context.Context) (*VanishedError, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var woken <-chan wakeUp
	if e.Notified() {
		woken = e.waker.woken
		if err := e.waker.arm(); err != nil {
			return nil, cannotRead(err)
		}
	}
	timer := time.NewTimer(e.interval())
	defer timer.Stop()
	for {
		tick := timer.C
		if woken != nil {
			tick = nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick:
			return nil, nil
		case why := <-woken:
			switch why {
			case wokenByError:
				// The driver has lost the device: whatever is written to the page, it will not notify us.
				return &VanishedError{Path: e.clock.path, Loss: LossDevice}, nil
			case wokenByUpdate:
				return nil, nil
			}
			// The device does not notify any more, so that waiting for it returns at once.
			woken = nil
		}
	}
}

// poll compares the page with how it was.
func (e *Events) poll() (*Notice, error) {
	var vanished *VanishedError
	if e.vanished {
		if changes := e.reopen(); changes != nil {
			return &Notice{Kind: Returned, Changes: *changes}, nil
		}
	} else if err := e.acknowledge(); errors.As(err, &vanished) {
		return e.lose(vanished), nil
	} else if err != nil {
		return nil, err
	}
	now, err := e.snapshot()
	switch {
	case err == nil:
	case e.vanished:
		return nil, nil
	case errors.As(err, &vanished):
		return e.lose(vanished), nil
	default:
		return nil, err
	}
	changes := Changes{e.last, now}
	e.last = now
	kinds := changes.Kinds()
	if len(kinds) == 0 || len(kinds) == 1 && kinds[0] == Refreshed && !e.Refreshes {
		return nil, nil
	}
	return &Notice{Kind: Changed, Changes: changes}, nil
}

// snapshot is the page. One that vanished in the middle of an update will not be repaired: there is nothing to wait for.
func (e *Events) snapshot() (Snapshot, error) {
	if e.vanished {
		snapshot, _, err := e.clock.snapshotWithCounter(0)
		return snapshot, err
	}
	return e.clock.Snapshot()
}

// acknowledge marks all updates up to now as seen, so that the device wakes us after the next. It tells how the page was
// lost, if it was.
func (e *Events) acknowledge() error {
	if e.device == nil {
		return e.clock.checkOrigin()
	}
	_, _, err := e.clock.pread(e.device)
	return err
}

// lose has a timer try the path from now on.
func (e *Events) lose(vanished *VanishedError) *Notice {
	e.vanished = true
	e.closeDevice()
	return &Notice{Kind: Vanished, Vanished: vanished}
}

// reopen takes the page that is at the path by now; nil where there is none.
func (e *Events) reopen() *Changes {
	// Asked first, as opening would find out why there is none.
	if _, err := os.Stat(e.clock.path); err != nil {
		return nil
	}
	// Whatever is wrong with it: its publisher may not have finished.
	clock, err := e.clock.Reopen()
	if err != nil {
		return nil
	}
	now, err := clock.Snapshot()
	if err != nil {
		_ = clock.Close()
		return nil
	}
	if e.reopened {
		_ = e.clock.Close()
	}
	changes := &Changes{e.last, now}
	e.clock, e.last, e.vanished, e.reopened = clock, now, false, true
	e.openDevice()
	return changes
}

// wakeUp tells why a waker woke us.
type wakeUp uint8

const (
	wokenByUpdate wakeUp = iota
	wokenByHangUp
	wokenByError
)

// waker waits for a device in a goroutine of its own: once each time it is armed.
type waker struct {
	// An epoll instance with the device in it. Go's own poller waits for it, so that no thread does.
	epoll  *os.File
	device int32
	woken  chan wakeUp
	done   sync.WaitGroup
}

func newWaker(device *os.File) (*waker, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// Not armed yet.
	event := syscall.EpollEvent{Events: syscall.EPOLLONESHOT}
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, int(device.Fd()), &event); err != nil {
		_ = syscall.Close(epoll)
		return nil, err
	}
	// For Go to poll it.
	_ = syscall.SetNonblock(epoll, true)
	w := &waker{
		epoll: os.NewFile(uintptr(epoll), "epoll"), device: int32(device.Fd()), woken: make(chan wakeUp, 1),
	}
	raw, err := w.epoll.SyscallConn()
	if err != nil {
		_ = w.epoll.Close()
		return nil, err
	}
	w.done.Add(1)
	go w.run(raw)
	return w, nil
}

// arm has the device wake us once, also if it was updated since it was last read.
func (w *waker) arm() error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLONESHOT}
	raw, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(epoll uintptr) {
		err = syscall.EpollCtl(int(epoll), syscall.EPOLL_CTL_MOD, int(w.device), &event)
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}

func (w *waker) run(raw syscall.RawConn) {
	defer w.done.Done()
	for {
		var events [1]syscall.EpollEvent
		err := raw.Read(func(epoll uintptr) bool {
			n, err := syscall.EpollWait(int(epoll), events[:], 0)
			return n == 1 && err == nil
		})
		if err != nil {
			return // closed
		}
		why := wokenByUpdate
		if flags := events[0].Events; flags&syscall.EPOLLERR != 0 {
			why = wokenByError
		} else if flags&syscall.EPOLLHUP != 0 {
			why = wokenByHangUp
		}
		// There is room but where it was armed twice and nobody waited in between; then once is enough.
		select {
		case w.woken <- why:
		default:
		}
	}
}

func (w *waker) close() {
	_ = w.epoll.Close()
	w.done.Wait()
}
