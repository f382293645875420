# SPDX-License-Identifier: MIT OR Apache-2.0
import datetime
import os
from types import TracebackType
from typing import Optional, Union, final

from ._events import Events

__all__ = [
    "Clock",
    "CrossTimestamp",
    "Epoch",
    "Event",
    "MockPage",
    "NativeEvents",
    "Notice",
    "Reading",
    "Snapshot",
    "default_page",
]

def default_page() -> str:
    """The page that is meant where none is named.

    That is the environment variable VMCLOCK_PAGE if it is set and not empty; otherwise the first of /dev/vmclock0 and
    /run/vmclock/page that exists; otherwise /dev/vmclock0.
    """

@final
class Clock:
    """A clock of a virtual machine: a VMClock device, or a plain file with a page in it. Threads may share it.

    `path` is `default_page()` where it is `None`. `max_wait` is how many seconds a reading waits for an update in progress
    before it raises `BusyError`. `map=False` has the page read by system calls; `map_files=False` does so with plain files
    only, and then no handler for SIGBUS is installed, which guards against a file that is cut short under its mapping.

    Raises `OpenError`; where there is no clock `NoClockError`, which is a `FileNotFoundError`.
    """

    def __new__(
        cls,
        path: Optional[Union[str, os.PathLike[str]]] = None,
        *,
        max_wait: float = 0.1,
        map: bool = True,
        map_files: bool = True,
    ) -> Clock: ...
    def now(self) -> Reading:
        """The time now, with its error bounds.

        Two readings by one thread, or by two that wait for one another, are in order. Whether the page is still published
        is for `check` to find out. Raises `NoTimeError`, `BusyError`, `VanishedError`, or another `ReadError`.
        """

    def now_unordered(self) -> Reading:
        """The same, cheaper, and some tens of nanoseconds early or late: for timing things, not for ordering them."""

    def now_ns(self) -> int:
        """UTC as POSIX counts it, in nanoseconds: what `time.time_ns()` would return were it right.

        During a leap second it repeats the second before. Raises what `now` raises, and `NoTimeError` where the page gives
        no UTC.
        """

    def epoch(self) -> Epoch:
        """The machine's present epoch, to be compared with a later one by `is_current`."""

    def is_current(self, epoch: Epoch) -> bool:
        """Whether this is still the same epoch: the machine was neither migrated nor restored nor cloned."""

    def snapshot(self) -> Snapshot:
        """The whole page at this moment, whether or not it gives a time."""

    def cross_timestamp(self) -> CrossTimestamp:
        """The page's time beside the system's clocks, all between two readings of the counter. Raises what `now` raises."""

    def check(self) -> None:
        """Raises `VanishedError` where the page is not the published one any more. A reading does not find out."""

    def reopen(self) -> Clock:
        """Opens the clock at the same path with the same options once more: what to do when its page has vanished."""

    def wait_until_after(self, reading: Reading, timeout: float = 10.0) -> Reading:
        """Commit-wait: returns when every clock has certainly passed `reading`, with a reading that is certainly after it.

        It takes about twice the maximum error; other threads go on meanwhile. Raises `DisruptedError` where the machine is
        in another epoch than that of `reading`, `CannotCompareError`, `WaitTimeoutError` after `timeout` seconds, and what
        `now` and `check` raise.
        """

    def events(self, *, refreshes: bool = False, interval: float = 0.01) -> Events:
        """What happens to the machine and its clock from now on.

        `refreshes`: whether refreshes of the calibration count too. `interval`: how often, in seconds, a page is polled
        whose device does not notify, and the path of a page that vanished.
        """

    @property
    def path(self) -> str:
        """Where the clock was opened, as an absolute path; `mock` for a mock."""

    @property
    def is_mapped(self) -> bool:
        """Whether the page is mapped. Otherwise every reading costs system calls."""

    @property
    def closed(self) -> bool:
        """Whether the clock is closed."""

    def close(self) -> None:
        """From now on methods raise `ValueError`. The page is unmapped when nothing refers to the clock any more."""

    def __enter__(self) -> Clock: ...
    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
        /,
    ) -> None: ...

@final
class Epoch:
    """Marker and generation: while they stay the same, the machine was neither migrated nor restored nor cloned."""

    @property
    def disruption_marker(self) -> int: ...
    @property
    def generation(self) -> Optional[int]:
        """`None` where the page has none."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CrossTimestamp:
    """The page's time, `CLOCK_REALTIME` and `CLOCK_MONOTONIC_RAW`, taken within a microsecond or two."""

    @property
    def page(self) -> Snapshot:
        """The page."""

    @property
    def reading(self) -> Reading:
        """The page's time, at the middle of `realtime_counters`."""

    @property
    def realtime_ns(self) -> int:
        """`CLOCK_REALTIME` in nanoseconds: what the system believes UTC to be."""

    @property
    def realtime_counters(self) -> tuple[int, int]:
        """The CPU's counter before and after `CLOCK_REALTIME` was read."""

    @property
    def monotonic_raw_ns(self) -> int:
        """`CLOCK_MONOTONIC_RAW` in nanoseconds: the kernel's own count of the counter, never disciplined."""

    @property
    def monotonic_raw_counters(self) -> tuple[int, int]:
        """The CPU's counter before and after `CLOCK_MONOTONIC_RAW` was read."""

    @property
    def realtime_ahead_ns(self) -> Optional[tuple[int, int]]:
        """Between how many nanoseconds and how many `CLOCK_REALTIME` is ahead of true UTC (negative: behind).

        The page's error bounds and the width of the sample are counted in. `None` where the page gives no UTC or no bounds.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Reading:
    """The time at one value of the counter, with its error bounds. A value: it does not change."""

    @property
    def utc(self) -> Optional[datetime.datetime]:
        """An aware datetime in UTC, rounded down to microseconds; `None` where the page gives no UTC.

        A datetime has no 23:59:60: in a leap second this is 23:59:59 once more, with `fold` = 1; `leap_second` and
        `isoformat` tell the two apart. Raises `OverflowError` beyond the year 9999.
        """

    @property
    def utc_ns(self) -> Optional[int]:
        """UTC as POSIX counts it, in nanoseconds, rounded down; `None` where the page gives no UTC."""

    @property
    def leap_second(self) -> Optional[bool]:
        """Whether this is inside 23:59:60; `None` where the page gives no UTC."""

    @property
    def tai_ns(self) -> Optional[int]:
        """Nanoseconds since 1970-01-01 00:00:00 TAI, rounded down; `None` where TAI is not known."""

    @property
    def tai_bounds_ns(self) -> Optional[tuple[int, int]]:
        """(earliest, latest) in TAI: true time is between them; `None` where the page states no maximum error."""

    @property
    def time_ns(self) -> int:
        """Nanoseconds on the page's own scale, rounded down."""

    @property
    def time_raw(self) -> int:
        """The exact time on the page's own scale, in 2^-64 s."""

    @property
    def bounds_ns(self) -> Optional[tuple[int, int]]:
        """(earliest, latest) on the page's own scale; `None` where the page states no maximum error."""

    @property
    def max_error_ns(self) -> Optional[int]:
        """The maximum error in ± nanoseconds, rounded up; `None` where the page states none."""

    @property
    def time_type(self) -> str:
        """The page's own scale: `utc`, `tai` or `monotonic`."""

    @property
    def status(self) -> str:
        """`synchronized` or `free-running`: the others give no time."""

    @property
    def epoch(self) -> Epoch:
        """Marker and generation at this reading."""

    @property
    def counter(self) -> int:
        """The value of the CPU's counter at this reading."""

    @property
    def smearing_hint(self) -> str:
        """How the page would like the clock to be smeared: `strict` (not at all), `noon-linear` or `utc-sls`."""

    def smeared_utc_ns(self, smearing: Optional[str] = None) -> Optional[int]:
        """UTC smeared around leap seconds, in nanoseconds, rounded down; `None` where the page gives no UTC.

        `smearing` is `noon-linear` (from the noon before the leap second to the noon after it) or `utc-sls` (over the last
        1000 seconds of the leap day). Where it is `None`, it is as the page hints, and where that hints at none, so is the
        result. No second repeats and none is missing. Raises `ValueError` for another `smearing`.
        """

    def is_before(self, other: Reading) -> Optional[bool]:
        """Whether this was taken before `other`, by true time; `None` where the bounds overlap or are not known."""

    def certainly_before(self, other: Reading) -> bool:
        """Whether this was certainly taken before `other`. `False` is no answer: it may have been."""

    def certainly_after(self, other: Reading) -> bool:
        """Whether this was certainly taken after `other`. `False` is no answer: it may have been."""

    def isoformat(self) -> Optional[str]:
        """UTC as RFC 3339 has it, with nanoseconds, and with `:60` in a leap second; `None` where there is no UTC."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Snapshot:
    """One consistent copy of a page."""

    @staticmethod
    def from_bytes(page: bytes) -> Snapshot:
        """Decodes the page that the bytes begin with. Raises `ValueError` where they are not a page."""

    def to_bytes(self) -> bytes:
        """The page's structure, 112 bytes."""

    def at(self, counter: int, cpu_counter: Optional[str] = None) -> Reading:
        """The time that the page gives at a value of its counter. Raises `NoTimeError`.

        `cpu_counter` is the counter of the CPU that is asked about, `x86-tsc` or `arm-cntvct`: this CPU's where it is
        `None`.
        """

    @property
    def size(self) -> int: ...
    @property
    def counter_id(self) -> str: ...
    @property
    def time_type(self) -> str: ...
    @property
    def seq_count(self) -> int: ...
    @property
    def disruption_marker(self) -> int: ...
    @property
    def flags(self) -> list[str]:
        """The names of the flags that are set."""

    @property
    def status(self) -> str: ...
    @property
    def smearing_hint(self) -> str: ...
    @property
    def tai_offset(self) -> Optional[int]:
        """TAI-UTC in seconds at the reference time, 37 since 2017; `None` where the page has none."""

    @property
    def leap_indicator(self) -> str: ...
    @property
    def counter_value(self) -> int:
        """The counter at the reference time."""

    @property
    def generation(self) -> Optional[int]: ...
    @property
    def epoch(self) -> Epoch: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Event:
    """One thing that happened. `str()` describes it."""

    @property
    def name(self) -> str:
        """`disrupted`, `restored`, `maintenance-soon`, `maintenance-imminent`, `maintenance-cleared`, `status`, `counter`,
        `time-scale` or `refreshed`.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Notice:
    """What `Events` reports. `"restored" in notice` asks for an event."""

    @property
    def kind(self) -> str:
        """`changed`; `vanished`: the page is gone, and its time is not to be used; `returned`: there is one again."""

    @property
    def events(self) -> list[Event]:
        """What happened. Several at once are normal; none where the page vanished."""

    @property
    def loss(self) -> Optional[str]:
        """How the page vanished: see `VanishedError`. `None` where it did not."""

    @property
    def before(self) -> Optional[Snapshot]:
        """The page before; `None` where it vanished."""

    @property
    def after(self) -> Optional[Snapshot]:
        """The page now; `None` where it vanished."""

    def __contains__(self, name: str, /) -> bool: ...

@final
class NativeEvents:
    """The native half of `Events`."""

    def wait(self, timeout: Optional[float] = None) -> Optional[Notice]: ...
    @property
    def is_notified(self) -> bool: ...
    @property
    def clock(self) -> Clock: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

@final
class MockPage:
    """A page in this process, for the tests of programs: its counter moves only by `advance` and `set_counter`.

    It starts synchronized on TAI, at 2033-05-18 03:33:20 TAI with UTC 37 s behind and errors of ± 1 µs, or with the
    contents of `page`.
    """

    def __new__(cls, page: Optional[bytes] = None) -> MockPage: ...
    def clock(self) -> Clock:
        """A clock that reads this page. It sees every later change."""

    def snapshot(self) -> Snapshot:
        """The page's contents."""

    def publish(self, page: bytes) -> None:
        """Publishes other contents."""

    def advance(self, by: float) -> None:
        """Moves the counter on by so many seconds."""

    def set_counter(self, counter: int) -> None:
        """Sets the counter."""

    def disrupt(self) -> None:
        """What a live migration does: a new marker."""

    def restore(self) -> None:
        """What a restore from a snapshot does: a new marker and a new generation."""

    def remove(self) -> None:
        """What the removal of a page's file does: its clocks have vanished."""

    def publish_again(self) -> None:
        """What a new publisher does after `remove`: there is a page again, with a new marker."""
