// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"encoding/binary"
	"fmt"
)

// The page's layout is that of Linux's include/uapi/linux/vmclock-abi.h. All fields are little-endian.
const (
	magic        = 0x4b4c4356 // the bytes "VCLK"
	version      = 1
	structureLen = 0x70
	minRegionLen = 0x10 // it ends behind the sequence count
)

// Where fields end: a field counts only if it ends inside the page's size.
const (
	endMarker     = 0x18
	endFlags      = 0x20
	endPad        = 0x22
	endStatus     = 0x23
	endSmearing   = 0x24
	endTAIOffset  = 0x26
	endLeap       = 0x27
	endShift      = 0x28
	endCounter    = 0x30
	endPeriod     = 0x38
	endPeriodEst  = 0x40
	endPeriodMax  = 0x48
	endTimeSec    = 0x50
	endTimeFrac   = 0x58
	endTimeEst    = 0x60
	endTimeMax    = 0x68
	endGeneration = 0x70
)

// Flags of a page. Bits without a meaning are ignored.
type Flags uint64

// The flags that Linux's header defines.
const (
	FlagTAIOffsetValid      Flags = 1 << iota // TAIOffsetSec means something
	FlagDisruptionSoon                        // a disruption is expected within about a day
	FlagDisruptionImminent                    // a disruption is expected within about an hour
	FlagPeriodEstErrorValid                   // PeriodEstErrorRate means something
	FlagPeriodMaxErrorValid                   // PeriodMaxErrorRate means something
	FlagTimeEstErrorValid                     // TimeEstErrorNanos means something
	FlagTimeMaxErrorValid                     // TimeMaxErrorNanos means something
	FlagTimeMonotonic                         // no update sets the time back: the host makes sure
	FlagVMGenCounterPresent                   // VMGenerationCounter means something
	FlagNotificationPresent                   // the device notifies after every update
)

// CounterID tells which CPU counter a page is about.
type CounterID uint8

// The counters that have a number.
const (
	CounterArmCNTVCT CounterID = 0    // CNTVCT_EL0, the Arm architecture's virtual counter
	CounterX86TSC    CounterID = 1    // the x86 time-stamp counter
	CounterNone      CounterID = 0xff // none: the page gives no time
)

func (c CounterID) String() string {
	switch c {
	case CounterArmCNTVCT:
		return "arm-cntvct"
	case CounterX86TSC:
		return "x86-tsc"
	case CounterNone:
		return "none"
	}
	return fmt.Sprintf("unknown counter %d", uint8(c))
}

// TimeType is the time scale of a page.
type TimeType uint8

// The time scales that have a number. A page may be on the first three.
const (
	TimeUTC                 TimeType = 0 // UTC as POSIX counts it
	TimeTAI                 TimeType = 1 // TAI, since 1970-01-01 00:00:00 TAI
	TimeMonotonic           TimeType = 2 // monotonic, since an epoch that is not defined
	TimeInvalidSmeared      TimeType = 3 // not allowed: gives no time
	TimeInvalidMaybeSmeared TimeType = 4 // not allowed: gives no time
)

func (t TimeType) String() string {
	switch t {
	case TimeUTC:
		return "utc"
	case TimeTAI:
		return "tai"
	case TimeMonotonic:
		return "monotonic"
	case TimeInvalidSmeared:
		return "smeared (invalid)"
	case TimeInvalidMaybeSmeared:
		return "maybe smeared (invalid)"
	}
	return fmt.Sprintf("unknown time type %d", uint8(t))
}

// ClockStatus tells how far the clock can be trusted.
type ClockStatus uint8

// The statuses that have a number.
const (
	StatusUnknown      ClockStatus = 0 // the host does not state it: gives no time
	StatusInitializing ClockStatus = 1 // the host is still calibrating: gives no time
	StatusSynchronized ClockStatus = 2 // synchronized to a reference
	StatusFreeRunning  ClockStatus = 3 // without its reference; the error bounds grow
	StatusUnreliable   ClockStatus = 4 // broken: gives no time
)

// GivesTime tells whether time may be derived from a page of this status.
func (s ClockStatus) GivesTime() bool {
	return s == StatusSynchronized || s == StatusFreeRunning
}

func (s ClockStatus) String() string {
	switch s {
	case StatusUnknown:
		return "unknown"
	case StatusInitializing:
		return "initializing"
	case StatusSynchronized:
		return "synchronized"
	case StatusFreeRunning:
		return "free-running"
	case StatusUnreliable:
		return "unreliable"
	}
	return fmt.Sprintf("unknown status %d", uint8(s))
}

// SmearingHint tells how a guest that wants a smeared clock should smear. A page itself is never smeared.
type SmearingHint uint8

// The hints that have a number.
const (
	SmearingStrict     SmearingHint = 0 // not at all
	SmearingNoonLinear SmearingHint = 1 // linearly from the noon before to the noon after
	SmearingUTCSLS     SmearingHint = 2 // UTC-SLS: over the last 1000 seconds of the leap day
)

func (h SmearingHint) String() string {
	switch h {
	case SmearingStrict:
		return "strict"
	case SmearingNoonLinear:
		return "noon-linear"
	case SmearingUTCSLS:
		return "utc-sls"
	}
	return fmt.Sprintf("unknown smearing %d", uint8(h))
}

// LeapIndicator tells where the page's reference time is relative to a leap second.
type LeapIndicator uint8

// The leap indicators that have a number.
const (
	LeapNone         LeapIndicator = 0 // no leap second is near
	LeapPrePositive  LeapIndicator = 1 // a second will be inserted at the end of this UTC month
	LeapPreNegative  LeapIndicator = 2 // a second will be deleted at the end of this UTC month
	LeapPositive     LeapIndicator = 3 // the reference time is inside 23:59:60
	LeapPostPositive LeapIndicator = 4 // a second was inserted at the start of this UTC month
	LeapPostNegative LeapIndicator = 5 // a second was deleted at the start of this UTC month
)

func (l LeapIndicator) String() string {
	switch l {
	case LeapNone:
		return "none"
	case LeapPrePositive:
		return "pre-positive"
	case LeapPreNegative:
		return "pre-negative"
	case LeapPositive:
		return "positive"
	case LeapPostPositive:
		return "post-positive"
	case LeapPostNegative:
		return "post-negative"
	}
	return fmt.Sprintf("unknown leap indicator %d", uint8(l))
}

// Snapshot is one consistent copy of a page, field by field. A field outside of Size is zero. Methods tell whether a
// field is present, which takes Size and, where the field has one, its flag.
type Snapshot struct {
	Magic               uint32
	Size                uint32 // bytes in the whole region
	Version             uint16
	CounterID           CounterID
	TimeType            TimeType
	SeqCount            uint32
	DisruptionMarker    uint64 // a new value: the counter was disrupted
	Flags               Flags
	Pad                 [2]byte
	ClockStatus         ClockStatus
	SmearingHint        SmearingHint
	TAIOffsetSec        int16 // UTC-TAI at the reference time: -37 since 2017. See TAIOffset
	LeapIndicator       LeapIndicator
	PeriodShift         uint8
	CounterValue        uint64 // the counter at the reference time
	PeriodFracSec       uint64 // seconds per tick, in 2^-(64 + PeriodShift) s
	PeriodEstErrorRate  uint64 // estimated error of the period, in the same unit
	PeriodMaxErrorRate  uint64 // maximum error of the period, in the same unit
	TimeSec             uint64 // the reference time, on the scale of TimeType
	TimeFracSec         uint64 // in 2^-64 s
	TimeEstErrorNanos   uint64 // estimated error of the reference time, in ± ns
	TimeMaxErrorNanos   uint64 // maximum error of the reference time, in ± ns
	VMGenerationCounter uint64 // a new value: the machine was restored or cloned
}

// ParseSnapshot decodes the copy of a page that bytes begin with: for recordings and files at rest. The error is a
// *NotAPageError.
func ParseSnapshot(bytes []byte) (Snapshot, error) {
	if len(bytes) < minRegionLen {
		return Snapshot{}, tooShort(len(bytes))
	}
	var structure [structureLen]byte
	copy(structure[:], bytes)
	snapshot := decode(&structure)
	if err := snapshot.validate(len(bytes)); err != nil {
		return Snapshot{}, err
	}
	if snapshot.SeqCount&1 != 0 {
		return Snapshot{}, &NotAPageError{text: fmt.Sprintf(
			"sequence count %d is odd: the page was copied during an update", snapshot.SeqCount)}
	}
	return snapshot.clipped(), nil
}

// decode decodes the structure, and checks nothing.
func decode(bytes *[structureLen]byte) Snapshot {
	var w words
	half := func(at int) uint32 { return binary.LittleEndian.Uint32(bytes[at:]) }
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(bytes[at:]) }
	w.magic, w.size, w.identity, w.seq = half(0x00), half(0x04), half(0x08), half(0x0c)
	w.marker, w.flags, w.state, w.counter = word(0x10), word(0x18), word(0x20), word(0x28)
	w.period, w.periodEst, w.periodMax = word(0x30), word(0x38), word(0x40)
	w.sec, w.frac, w.timeEst, w.timeMax, w.generation = word(0x48), word(0x50), word(0x58), word(0x60), word(0x68)
	return w.decode()
}

// validate checks what is constant for the life of a device, against the bytes that there really are.
func (s *Snapshot) validate(length int) error {
	if s.Magic != magic {
		return &NotAPageError{text: fmt.Sprintf(
			"magic is 0x%08x, not 0x%08x (\"VCLK\"): this is not a VMClock page", s.Magic, magic)}
	}
	if s.Version != version {
		return &NotAPageError{text: fmt.Sprintf(
			"version is %d; only version %d of the VMClock page is known", s.Version, version)}
	}
	needed := uint64(s.Size)
	if needed > structureLen {
		needed = structureLen
	}
	if s.Size < minRegionLen || needed > uint64(length) {
		return &NotAPageError{text: fmt.Sprintf(
			"the page's size field is %d, which is not between %d and the %d bytes there are",
			s.Size, minRegionLen, length)}
	}
	return nil
}

func tooShort(length int) *NotAPageError {
	return &NotAPageError{text: fmt.Sprintf(
		"%d bytes are too few for a VMClock page, whose header alone takes %d", length, minRegionLen)}
}

// clipped is the same with every field that does not end inside Size set to zero.
func (s Snapshot) clipped() Snapshot {
	if s.Size >= structureLen {
		return s
	}
	clip64 := func(field *uint64, end uint32) {
		if s.Size < end {
			*field = 0
		}
	}
	clip64(&s.DisruptionMarker, endMarker)
	clip64((*uint64)(&s.Flags), endFlags)
	if s.Size < endPad {
		s.Pad = [2]byte{}
	}
	if s.Size < endStatus {
		s.ClockStatus = 0
	}
	if s.Size < endSmearing {
		s.SmearingHint = 0
	}
	if s.Size < endTAIOffset {
		s.TAIOffsetSec = 0
	}
	if s.Size < endLeap {
		s.LeapIndicator = 0
	}
	if s.Size < endShift {
		s.PeriodShift = 0
	}
	clip64(&s.CounterValue, endCounter)
	clip64(&s.PeriodFracSec, endPeriod)
	clip64(&s.PeriodEstErrorRate, endPeriodEst)
	clip64(&s.PeriodMaxErrorRate, endPeriodMax)
	clip64(&s.TimeSec, endTimeSec)
	clip64(&s.TimeFracSec, endTimeFrac)
	clip64(&s.TimeEstErrorNanos, endTimeEst)
	clip64(&s.TimeMaxErrorNanos, endTimeMax)
	clip64(&s.VMGenerationCounter, endGeneration)
	return s
}

// present tells whether a field that ends at end, with these flags, means something.
func (s *Snapshot) present(flags Flags, end uint32) bool {
	return s.Flags&flags == flags && s.Size >= end
}

// Generation is the generation counter; false where the page has none.
func (s *Snapshot) Generation() (uint64, bool) {
	if !s.present(FlagVMGenCounterPresent, endGeneration) {
		return 0, false
	}
	return s.VMGenerationCounter, true
}

// TAIOffset is TAI-UTC in seconds at the reference time, +37 since 2017; false where the page has none. Pages hold the
// negative number. Some producers write the other sign, and are understood; what is not 10 to 60 s is no TAI offset.
func (s *Snapshot) TAIOffset() (int, bool) {
	if !s.present(FlagTAIOffsetValid, endTAIOffset) {
		return 0, false
	}
	offset := int(s.TAIOffsetSec)
	if offset < 0 {
		offset = -offset
	}
	if offset < 10 || offset > 60 {
		return 0, false
	}
	return offset, true
}

// Epoch is the page's marker and generation.
func (s *Snapshot) Epoch() Epoch {
	return epochOf(s.Size, s.DisruptionMarker, uint64(s.Flags), s.VMGenerationCounter)
}

// notifies tells whether the device notifies after every update.
func (s *Snapshot) notifies() bool {
	return s.Flags&FlagNotificationPresent != 0
}

// Epoch is marker and generation of a machine: while it stays the same, neither was the counter disrupted nor the
// machine restored or cloned. Epochs are compared with ==.
type Epoch struct {
	DisruptionMarker uint64
	Generation       uint64 // zero where HasGeneration is false
	HasGeneration    bool
}

func epochOf(size uint32, marker, flags, generation uint64) Epoch {
	if size < endGeneration || Flags(flags)&FlagVMGenCounterPresent == 0 {
		return Epoch{DisruptionMarker: marker}
	}
	return Epoch{marker, generation, true}
}

// words is the structure in words, as it is loaded.
type words struct {
	magic, size, identity, seq              uint32
	marker, flags, state, counter           uint64
	period, periodEst, periodMax            uint64
	sec, frac, timeEst, timeMax, generation uint64
}

// decode decodes the words. Fields outside of the size keep what lies there: see clipped.
func (w *words) decode() Snapshot {
	return Snapshot{
		Magic:               w.magic,
		Size:                w.size,
		Version:             uint16(w.identity),
		CounterID:           CounterID(w.identity >> 16),
		TimeType:            TimeType(w.identity >> 24),
		SeqCount:            w.seq,
		DisruptionMarker:    w.marker,
		Flags:               Flags(w.flags),
		Pad:                 [2]byte{byte(w.state), byte(w.state >> 8)},
		ClockStatus:         ClockStatus(w.state >> 16),
		SmearingHint:        SmearingHint(w.state >> 24),
		TAIOffsetSec:        int16(w.state >> 32),
		LeapIndicator:       LeapIndicator(w.state >> 48),
		PeriodShift:         uint8(w.state >> 56),
		CounterValue:        w.counter,
		PeriodFracSec:       w.period,
		PeriodEstErrorRate:  w.periodEst,
		PeriodMaxErrorRate:  w.periodMax,
		TimeSec:             w.sec,
		TimeFracSec:         w.frac,
		TimeEstErrorNanos:   w.timeEst,
		TimeMaxErrorNanos:   w.timeMax,
		VMGenerationCounter: w.generation,
	}
}

// words is the opposite of decode.
func (s *Snapshot) words() words {
	return words{
		magic:    s.Magic,
		size:     s.Size,
		identity: uint32(s.Version) | uint32(s.CounterID)<<16 | uint32(s.TimeType)<<24,
		seq:      s.SeqCount,
		marker:   s.DisruptionMarker,
		flags:    uint64(s.Flags),
		state: uint64(s.Pad[0]) | uint64(s.Pad[1])<<8 | uint64(s.ClockStatus)<<16 | uint64(s.SmearingHint)<<24 |
			uint64(uint16(s.TAIOffsetSec))<<32 | uint64(s.LeapIndicator)<<48 | uint64(s.PeriodShift)<<56,
		counter:    s.CounterValue,
		period:     s.PeriodFracSec,
		periodEst:  s.PeriodEstErrorRate,
		periodMax:  s.PeriodMaxErrorRate,
		sec:        s.TimeSec,
		frac:       s.TimeFracSec,
		timeEst:    s.TimeEstErrorNanos,
		timeMax:    s.TimeMaxErrorNanos,
		generation: s.VMGenerationCounter,
	}
}
