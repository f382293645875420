# SPDX-License-Identifier: MIT OR Apache-2.0
"""The exceptions. Each has a reason for programs, and a text that names the thing and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ._native import Epoch


class VmClockError(Exception):
    """Whatever goes wrong with a clock. `reason` is one word for it, which stays the same from version to version."""

    reason: str

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class OpenError(VmClockError):
    """A clock could not be opened: `wrong-kind`, `not-a-page`, `busy` or `io`."""

    path: str

    def __init__(self, text: str, reason: str, *, path: str) -> None:
        super().__init__(text, reason)
        self.path = path


class NoClockError(OpenError, FileNotFoundError):
    """There is no clock, a normal state of a machine: `no-device`, `no-driver` or `no-file`."""


class ClockPermissionError(OpenError, PermissionError):
    """The clock may not be read: `permission`."""


class ReadError(VmClockError):
    """An open clock could not be read at this moment."""


class NoTimeError(ReadError):
    """The page is in order but gives no time now.

    `size`, `counter`, `status` (then `status` tells which), `period`, `shift`, `time-type`, `out-of-range`, or `no-utc`:
    a time, but not in UTC.
    """

    status: Optional[str]

    def __init__(self, text: str, reason: str, *, status: Optional[str]) -> None:
        super().__init__(text, reason)
        self.status = status


class BusyError(ReadError):
    """No consistent copy of the page could be had in the time allowed. `seq_count` is odd where its writer is dead."""

    seq_count: int

    def __init__(self, text: str, reason: str, *, seq_count: int) -> None:
        super().__init__(text, reason)
        self.seq_count = seq_count


class VanishedError(ReadError):
    """The page is not the published one any more: `removed`, `replaced`, `cut`, `overwritten` or `device`.

    What happens to the machine from now on is not announced there, and its time is not to be used. `Clock.reopen` opens
    the one that is.
    """

    path: str

    def __init__(self, text: str, reason: str, *, path: str) -> None:
        super().__init__(text, reason)
        self.path = path


class DisruptedError(VmClockError):
    """The machine was migrated, restored or cloned during a wait."""

    before: Epoch
    now: Epoch

    def __init__(self, text: str, reason: str, *, before: Epoch, now: Epoch) -> None:
        super().__init__(text, reason)
        self.before = before
        self.now = now


class CannotCompareError(VmClockError):
    """Two readings cannot be compared: `no-bounds` or `not-comparable`."""


class WaitTimeoutError(VmClockError, TimeoutError):
    """A moment had not certainly passed in time: `timed-out`."""
