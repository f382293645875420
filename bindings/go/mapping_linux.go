// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// mapping is the read-only mapping of a page. It is unmapped when nothing refers to it any more, and not before: a
// reading may be under way while another goroutine closes the clock.
type mapping struct {
	memory []byte
}

func newMapping(file *os.File) (*mapping, error) {
	memory, err := syscall.Mmap(int(file.Fd()), 0, os.Getpagesize(), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	m := &mapping{memory}
	runtime.SetFinalizer(m, func(m *mapping) { _ = syscall.Munmap(m.memory) })
	return m, nil
}

// page is the page, as long as the mapping is reachable. A page of memory is longer than the structure and aligned, and
// this process has only this way to it, through atomics.
func (m *mapping) page() *sharedPage {
	return (*sharedPage)(unsafe.Pointer(&m.memory[0]))
}

// tryLoadGuarded is tryLoad of a plain file; not ok also where the page is lost.
func (p *sharedPage) tryLoadGuarded(w *words) (counter uint64, ok bool) {
	panicOnFault, guarded := debug.SetPanicOnFault(true), true
	defer func() {
		if guarded {
			p.lost(panicOnFault, recover())
		}
	}()
	counter, ok = p.tryLoad(w)
	debug.SetPanicOnFault(panicOnFault)
	guarded = false
	return counter, ok
}

// isStillOfGuarded is isStillOf of a plain file; false also where the page is lost.
func (p *sharedPage) isStillOfGuarded(known *Epoch) (still bool) {
	panicOnFault, guarded := debug.SetPanicOnFault(true), true
	defer func() {
		if guarded {
			p.lost(panicOnFault, recover())
		}
	}()
	still = p.isStillOf(known)
	debug.SetPanicOnFault(panicOnFault)
	guarded = false
	return still
}

// loadSeqGuarded is loadSeq of a plain file; 0 where the page is lost.
func (p *sharedPage) loadSeqGuarded() (seq uint32) {
	panicOnFault, guarded := debug.SetPanicOnFault(true), true
	defer func() {
		if guarded {
			p.lost(panicOnFault, recover())
		}
	}()
	seq = p.loadSeq()
	debug.SetPanicOnFault(panicOnFault)
	guarded = false
	return seq
}
