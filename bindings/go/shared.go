// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import "sync/atomic"

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

// read makes one attempt at the reading of an ordinary page: whole, and with a time at every counter value, as a shift of
// at least 2 and a reference below 2^62 s make sure. It gives what (*Reading).set gives, in one function with everything
// in registers, and false for all else.
func (p *sharedPage) read(r *Reading, ordered bool) bool {
	before := p.loadSeq()
	if before&1 != 0 {
		return false
	}
	var counter uint64
	// The counter first: reading it takes long, and the CPU can load the words meanwhile.
	if ordered {
		counter = counterOrdered()
	} else {
		counter = counterUnordered()
	}
	size := le32(atomic.LoadUint32(&p.size))
	identity := le32(atomic.LoadUint32(&p.identity))
	marker := le64(atomic.LoadUint64(&p.words[0]))
	flags := le64(atomic.LoadUint64(&p.words[1]))
	state := le64(atomic.LoadUint64(&p.words[2]))
	refCounter := le64(atomic.LoadUint64(&p.words[3]))
	period := le64(atomic.LoadUint64(&p.words[4]))
	periodMax := le64(atomic.LoadUint64(&p.words[6]))
	refSec := le64(atomic.LoadUint64(&p.words[7]))
	refFrac := le64(atomic.LoadUint64(&p.words[8]))
	timeMax := le64(atomic.LoadUint64(&p.words[10]))
	generation := le64(atomic.LoadUint64(&p.words[11]))
	if p.loadSeq() != before {
		return false
	}
	timeType := identity >> 24
	if size < structureLen || cpuCounter == CounterNone || CounterID(identity>>16) != cpuCounter ||
		!ClockStatus(state>>16).GivesTime() || period == 0 || state>>56 < 2 || state>>56 >= 64 ||
		timeType > uint32(TimeMonotonic) || refSec>>62 != 0 {
		return false
	}
	// Each flag from its place to that of the bit in the state; the maximum error takes two.
	presence := flags&uint64(FlagTAIOffsetValid)<<8 | flags&uint64(FlagVMGenCounterPresent)<<1 |
		flags>>4&(flags>>6)&1<<10
	r.counter, r.refCounter, r.refSec, r.refFrac = counter, refCounter, refSec, refFrac
	r.period, r.periodMax, r.timeMax, r.marker, r.generation = period, periodMax, timeMax, marker, generation
	r.state = state&^statePadding | presence | uint64(timeType)
	return true
}
