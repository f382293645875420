# SPDX-License-Identifier: MIT OR Apache-2.0
"""Time inside a virtual machine, with its error bounds, and the machine's events, from a VMClock page.

    import vmclock

    with vmclock.Clock() as clock:  # $VMCLOCK_PAGE; else /dev/vmclock0 or /run/vmclock/page
        reading = clock.now()
        print(reading.utc, "±", reading.max_error_ns, "ns")

Where the page gives no time, `Clock.now` raises `NoTimeError` with the reason; where it states no error bounds, they are
`None`. All exceptions are `VmClockError`; a missing device is also a `FileNotFoundError`.
"""

from ._errors import (
    BusyError,
    CannotCompareError,
    ClockPermissionError,
    DisruptedError,
    NoClockError,
    NoTimeError,
    OpenError,
    ReadError,
    VanishedError,
    VmClockError,
    WaitTimeoutError,
)
from ._events import Events
from ._native import Clock, CrossTimestamp, Epoch, Event, MockPage, Notice, Reading, Snapshot, default_page

__all__ = [
    "BusyError",
    "CannotCompareError",
    "Clock",
    "ClockPermissionError",
    "CrossTimestamp",
    "DisruptedError",
    "Epoch",
    "Event",
    "Events",
    "MockPage",
    "NoClockError",
    "NoTimeError",
    "Notice",
    "OpenError",
    "ReadError",
    "Reading",
    "Snapshot",
    "VanishedError",
    "VmClockError",
    "WaitTimeoutError",
    "default_page",
]
