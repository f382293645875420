// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"runtime/debug"
	"sync/atomic"
	"unsafe"
)

// sharedPage is the structure as it lies in shared memory. It is loaded through sync/atomic alone, by whole words. Go's
// atomic operations are sequentially consistent, so that no load moves before the first load of the sequence count or
// after the second.
type sharedPage struct {
	magic, size, identity, seq uint32
	words                      [12]uint64
}

// load loads all words, which need not belong together.
func (p *sharedPage) load(w *words) {
	w.magic = le32(atomic.LoadUint32(&p.magic))
	w.size = le32(atomic.LoadUint32(&p.size))
	w.identity = le32(atomic.LoadUint32(&p.identity))
	w.seq = le32(atomic.LoadUint32(&p.seq))
	w.marker = le64(atomic.LoadUint64(&p.words[0]))
	w.flags = le64(atomic.LoadUint64(&p.words[1]))
	w.state = le64(atomic.LoadUint64(&p.words[2]))
	w.counter = le64(atomic.LoadUint64(&p.words[3]))
	w.period = le64(atomic.LoadUint64(&p.words[4]))
	w.periodEst = le64(atomic.LoadUint64(&p.words[5]))
	w.periodMax = le64(atomic.LoadUint64(&p.words[6]))
	w.sec = le64(atomic.LoadUint64(&p.words[7]))
	w.frac = le64(atomic.LoadUint64(&p.words[8]))
	w.timeEst = le64(atomic.LoadUint64(&p.words[9]))
	w.timeMax = le64(atomic.LoadUint64(&p.words[10]))
	w.generation = le64(atomic.LoadUint64(&p.words[11]))
}

func (p *sharedPage) loadSeq() uint32 {
	return le32(atomic.LoadUint32(&p.seq))
}

// tryLoad makes one attempt at a consistent copy, and at the counter's value at a moment when these were the page's
// words.
func (p *sharedPage) tryLoad(w *words) (counter uint64, ok bool) {
	before := p.loadSeq()
	if before&1 != 0 {
		return 0, false
	}
	counter = counterOrdered()
	p.load(w)
	return counter, p.loadSeq() == before
}

// isStillOf tells whether the page is certainly still in an epoch. False is no answer: something happened, or an update
// is in progress, or the page is shorter than the structure.
func (p *sharedPage) isStillOf(known *Epoch) bool {
	before := p.loadSeq()
	size := le32(atomic.LoadUint32(&p.size))
	marker := le64(atomic.LoadUint64(&p.words[0]))
	flags := Flags(le64(atomic.LoadUint64(&p.words[1])))
	generation := le64(atomic.LoadUint64(&p.words[11]))
	return p.loadSeq() == before && before&1 == 0 && size >= structureLen &&
		marker == known.DisruptionMarker &&
		(flags&FlagVMGenCounterPresent != 0) == known.HasGeneration &&
		(generation == known.Generation || !known.HasGeneration)
}

// A device cannot shrink. A plain file can, and an access to a mapped page beyond the file's end is SIGBUS, which ends
// the program, unless the goroutine asks for a panic instead. So what reads a mapped plain file asks for that, and has
// the panic recovered by
//
//	p.lost(panicOnFault, recover())
//
// It returns zero values where the page is lost. Where it is not, there is nothing to recover from, and to ask would
// cost more than to know.

// lost takes a fault for a page that is lost. Other panics go on.
func (p *sharedPage) lost(panicOnFault bool, cause any) {
	debug.SetPanicOnFault(panicOnFault)
	fault, isFault := cause.(interface{ Addr() uintptr })
	start := uintptr(unsafe.Pointer(p))
	if !isFault || fault.Addr() < start || fault.Addr() >= start+structureLen {
		panic(cause)
	}
}

// read makes one attempt at the reading of an ordinary page: whole, and with a time at every counter value, as a shift of
// at least 2 and a reference below 2^62 s make sure. It gives what (*Reading).set gives, in one function, and false for
// all else, also where a plain file is lost; then the reading is nothing.
func (p *sharedPage) read(r *Reading, ordered, plain bool) (ok bool) {
	panicOnFault, guarded := false, plain
	if plain {
		panicOnFault = debug.SetPanicOnFault(true)
		defer func() {
			if guarded {
				p.lost(panicOnFault, recover())
			}
		}()
	}
	before := p.loadSeq()
	identity := le32(atomic.LoadUint32(&p.identity))
	state := le64(atomic.LoadUint64(&p.words[2]))
	period := le64(atomic.LoadUint64(&p.words[4]))
	refSec := le64(atomic.LoadUint64(&p.words[7]))
	timeType := identity >> 24
	if before&1 == 0 && le32(atomic.LoadUint32(&p.size)) >= structureLen &&
		cpuCounter != CounterNone && CounterID(identity>>16) == cpuCounter &&
		ClockStatus(state>>16).GivesTime() && period != 0 && state>>56-2 <= 63-2 &&
		timeType <= uint32(TimeMonotonic) && refSec>>62 == 0 {
		r.refCounter = le64(atomic.LoadUint64(&p.words[3]))
		r.refSec = refSec
		r.refFrac = le64(atomic.LoadUint64(&p.words[8]))
		r.period = period
		r.periodMax = le64(atomic.LoadUint64(&p.words[6]))
		r.timeMax = le64(atomic.LoadUint64(&p.words[10]))
		r.marker = le64(atomic.LoadUint64(&p.words[0]))
		r.state = state&^statePadding | uint64(timeType)
		flags := Flags(le64(atomic.LoadUint64(&p.words[1])))
		r.flags = flags
		// In a file that was cut short, what is lost reads as zero, and the generation counter is the last field. So
		// a page that still has it, when all else was loaded, is whole.
		generation := le64(atomic.LoadUint64(&p.words[11]))
		r.generation = generation
		if !plain || generation != 0 && flags&FlagVMGenCounterPresent != 0 {
			// The counter last: reading it takes as long as the words need to leave the store buffer. See Reading.
			if ordered {
				r.counter = counterOrdered()
			} else {
				r.counter = counterUnordered()
			}
			ok = p.loadSeq() == before
		}
	}
	if plain {
		debug.SetPanicOnFault(panicOnFault)
		guarded = false
	}
	return ok
}
