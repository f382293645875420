// SPDX-License-Identifier: MIT OR Apache-2.0

package vmclock

import (
	"fmt"
	"strings"
)

// EventKind tells what happened to the clock or to the machine.
type EventKind uint8

// The kinds of events.
const (
	// Disrupted: the counter was disrupted. Whoever calibrated it must start anew.
	Disrupted EventKind = iota
	// Restored: the machine was restored from saved state, or cloned. What must be unique is so no longer.
	Restored
	// MaintenanceSoon: a disruption is announced, within about a day.
	MaintenanceSoon
	// MaintenanceImminent: a disruption is announced, within about an hour.
	MaintenanceImminent
	// MaintenanceCleared: no disruption is announced any more.
	MaintenanceCleared
	// StatusChanged: the clock's status changed.
	StatusChanged
	// CounterChanged: the page's counter changed, as a rule from none to one.
	CounterChanged
	// TimeScaleChanged: the TAI offset or the leap indicator changed.
	TimeScaleChanged
	// Refreshed: only the calibration was refreshed.
	Refreshed
)

// String is the one word for this kind of event: the command `vmclock watch` has the same.
func (k EventKind) String() string {
	switch k {
	case Disrupted:
		return "disrupted"
	case Restored:
		return "restored"
	case MaintenanceSoon:
		return "maintenance-soon"
	case MaintenanceImminent:
		return "maintenance-imminent"
	case MaintenanceCleared:
		return "maintenance-cleared"
	case StatusChanged:
		return "status"
	case CounterChanged:
		return "counter"
	case TimeScaleChanged:
		return "time-scale"
	case Refreshed:
		return "refreshed"
	}
	return fmt.Sprintf("unknown event %d", uint8(k))
}

// Changes are two snapshots of a page, and so what happened between them.
type Changes struct {
	Before, After Snapshot
}

// Kinds are the events, in the order of the constants. Several at once are normal: a restore usually also disrupts.
func (c *Changes) Kinds() []EventKind {
	var kinds []EventKind
	before, after := &c.Before, &c.After
	if before.DisruptionMarker != after.DisruptionMarker {
		kinds = append(kinds, Disrupted)
	}
	from, had := before.Generation()
	to, has := after.Generation()
	if had && has && from != to {
		kinds = append(kinds, Restored)
	}
	if now := maintenanceOf(after); now != maintenanceOf(before) {
		kinds = append(kinds, now)
	}
	if before.ClockStatus != after.ClockStatus {
		kinds = append(kinds, StatusChanged)
	}
	if before.CounterID != after.CounterID {
		kinds = append(kinds, CounterChanged)
	}
	if leapStatusOf(before) != leapStatusOf(after) {
		kinds = append(kinds, TimeScaleChanged)
	}
	if len(kinds) == 0 && before.SeqCount != after.SeqCount {
		kinds = append(kinds, Refreshed)
	}
	return kinds
}

// Has tells whether an event of this kind is among them.
func (c *Changes) Has(kind EventKind) bool {
	for _, k := range c.Kinds() {
		if k == kind {
			return true
		}
	}
	return false
}

// Describe tells what an event of this kind was about, and what to do.
func (c *Changes) Describe(kind EventKind) string {
	switch kind {
	case Disrupted:
		return fmt.Sprintf("the counter was disrupted (marker %#x -> %#x): drop what was measured with it before",
			c.Before.DisruptionMarker, c.After.DisruptionMarker)
	case Restored:
		return fmt.Sprintf("the machine was restored from saved state or cloned (generation %#x -> %#x): "+
			"renew what must be unique", c.Before.VMGenerationCounter, c.After.VMGenerationCounter)
	case MaintenanceSoon:
		return "a disruption is announced, within about a day"
	case MaintenanceImminent:
		return "a disruption is imminent, within about an hour"
	case MaintenanceCleared:
		return "no disruption is announced any more"
	case StatusChanged:
		return fmt.Sprintf("the clock's status changed from %s to %s", c.Before.ClockStatus, c.After.ClockStatus)
	case CounterChanged:
		return fmt.Sprintf("the clock's counter changed from %s to %s", c.Before.CounterID, c.After.CounterID)
	case TimeScaleChanged:
		before, after := leapStatusOf(&c.Before), leapStatusOf(&c.After)
		var texts []string
		if before.offset != after.offset {
			texts = append(texts, fmt.Sprintf("TAI-UTC changed from %s to %s", before.text(), after.text()))
		}
		if before.indicator != after.indicator {
			texts = append(texts,
				fmt.Sprintf("the leap indicator changed from %s to %s", before.indicator, after.indicator))
		}
		return strings.Join(texts, ", ")
	case Refreshed:
		return "the calibration was refreshed"
	}
	return kind.String()
}

func maintenanceOf(page *Snapshot) EventKind {
	switch {
	case page.Flags&FlagDisruptionImminent != 0:
		return MaintenanceImminent
	case page.Flags&FlagDisruptionSoon != 0:
		return MaintenanceSoon
	}
	return MaintenanceCleared
}

// leapStatus is TAI-UTC in seconds, 0 where it is not known, and the leap indicator.
type leapStatus struct {
	offset    int
	indicator LeapIndicator
}

func leapStatusOf(page *Snapshot) leapStatus {
	offset, _ := page.TAIOffset()
	return leapStatus{offset, page.LeapIndicator}
}

func (s leapStatus) text() string {
	if s.offset == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%+d s", s.offset)
}

// NoticeKind tells what Events.Wait has found.
type NoticeKind uint8

// The kinds of notices.
const (
	// Changed: the page changed.
	Changed NoticeKind = iota
	// Vanished: the page vanished, and its time is not to be used. Events then waits for a page at the same path, and
	// meanwhile reports what a retiring publisher still writes to the old one.
	Vanished
	// Returned: there is a page again. Events.Clock reads it.
	Returned
)

// Notice is what Events.Wait has found.
type Notice struct {
	Kind NoticeKind
	// What changed. Nothing where the page vanished, and maybe nothing where it returned.
	Changes
	// How the page vanished, where it did.
	Vanished *VanishedError
}
