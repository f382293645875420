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

// A device cannot shrink. A plain file can, and an access to a mapped page beyond the file's end is SIGBUS, which ends
// the program, unless the goroutine asks for a panic instead. So what reads a mapped plain file goes like this:
//
//	defer recoverFault(page, debug.SetPanicOnFault(true))
//
// It returns zero values where the page is lost. Other panics go on.
func recoverFault(page *sharedPage, panicOnFault bool) {
	debug.SetPanicOnFault(panicOnFault)
	cause := recover()
	if cause == nil {
		return
	}
	fault, isFault := cause.(interface{ Addr() uintptr })
	start := uintptr(unsafe.Pointer(page))
	if !isFault || fault.Addr() < start || fault.Addr() >= start+structureLen {
		panic(cause)
	}
}

// tryLoadGuarded is tryLoad of a plain file; not ok also where the page is lost.
func (p *sharedPage) tryLoadGuarded(w *words) (counter uint64, ok bool) {
	defer recoverFault(p, debug.SetPanicOnFault(true))
	return p.tryLoad(w)
}

// readGuarded is read of a plain file; false also where the page is lost.
func (p *sharedPage) readGuarded(r *Reading, ordered bool) (ok bool) {
	defer recoverFault(p, debug.SetPanicOnFault(true))
	return p.read(r, ordered)
}

// isStillOfGuarded is isStillOf of a plain file; false also where the page is lost.
func (p *sharedPage) isStillOfGuarded(known *Epoch) (still bool) {
	defer recoverFault(p, debug.SetPanicOnFault(true))
	return p.isStillOf(known)
}

// loadSeqGuarded is loadSeq of a plain file; 0 where the page is lost.
func (p *sharedPage) loadSeqGuarded() (seq uint32) {
	defer recoverFault(p, debug.SetPanicOnFault(true))
	return p.loadSeq()
}
