# SPDX-License-Identifier: MIT OR Apache-2.0
"""The shared vectors, and any page against numbers that cannot overflow."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmclock

VECTORS = Path(__file__).parents[2] / "vmclock-core/tests/vectors/time-at-counter.json"


def stamp(nanos: Optional[int]) -> Optional[dict[str, int]]:
    return None if nanos is None else {"sec": nanos // 10**9, "nsec": nanos % 10**9}


def evaluate(page: vmclock.Snapshot, counter: int) -> dict[str, Any]:
    """What `vmclock eval` prints."""
    found: dict[str, Any] = {
        "status": page.status,
        "disruption_marker": page.disruption_marker,
        "vm_generation_counter": page.generation,
        **dict.fromkeys(["time", "earliest", "latest", "tai", "utc"]),
        "exit": 3,
    }
    try:
        reading = page.at(counter, "x86-tsc")
    except vmclock.NoTimeError as error:
        assert error.reason
        return found
    earliest, latest = reading.bounds_ns or (None, None)
    utc: Any = stamp(reading.utc_ns)
    found.update(
        time=stamp(reading.time_ns),
        earliest=stamp(earliest),
        latest=stamp(latest),
        tai=stamp(reading.tai_ns),
        utc=utc and {**utc, "leap_second": reading.leap_second},
        exit=0,
    )
    return found


def vectors() -> list[Any]:
    found = json.loads(VECTORS.read_text())
    assert isinstance(found, list) and len(found) == 115
    return found


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_every_vector_is_met_exactly(vector: Any) -> None:
    page = vmclock.Snapshot.from_bytes(bytes.fromhex(vector["page"]).ljust(4096, b"\0"))
    assert evaluate(page, vector["counter"]) == vector["expect"]


def field(at: int, strategy: st.SearchStrategy[int], size: int = 8) -> st.SearchStrategy[tuple[int, bytes]]:
    return strategy.map(lambda value: (at, value.to_bytes(size, "little")))


WORD = st.integers(0, 2**64 - 1)
PAGES = st.tuples(
    field(0x0B, st.integers(0, 3), 1),
    field(0x18, st.integers(0, 2**10 - 1)),
    field(0x22, st.integers(1, 4), 1),
    field(0x24, st.integers(0, 2**16 - 1) | st.just(2**16 - 37), 2),
    field(0x26, st.integers(0, 6), 1),
    field(0x27, st.integers(0, 130), 1),
    field(0x28, WORD),
    field(0x30, WORD),
    field(0x40, WORD),
    field(0x48, WORD | st.integers(0, 2**33)),
    field(0x50, WORD),
    field(0x60, WORD | st.integers(0, 10**6)),
)
LIMIT = 2**63 * 10**9


def clamped(nanos: int) -> int:
    return max(-LIMIT, min(LIMIT - 1, nanos))


@settings(max_examples=500, deadline=None)
@given(PAGES, st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**12), 10**12))
def test_any_page_against_numbers_that_cannot_overflow(fields: Any, ticks: int) -> None:
    structure = bytearray(vmclock.MockPage().snapshot().to_bytes())
    for at, value in fields:
        structure[at : at + len(value)] = value
    page = vmclock.Snapshot.from_bytes(bytes(structure).ljust(4096, b"\0"))

    def word(at: int) -> int:
        return int.from_bytes(structure[at : at + 8], "little")

    try:
        reading = page.at((word(0x28) + ticks) % 2**64, "x86-tsc")
    except vmclock.NoTimeError as error:
        time = (word(0x48) << 64) + word(0x50) + (ticks * word(0x30) >> min(structure[0x27], 200))
        expected = {
            "status": page.status not in ("synchronized", "free-running"),
            "period": word(0x30) == 0,
            "shift": structure[0x27] >= 128,
            "time-type": structure[0x0B] > 2,
            "out-of-range": word(0x48) >= 2**63 or time >= 2**127,
        }
        assert expected[error.reason], error
        return
    raw = (word(0x48) << 64) + word(0x50) + (ticks * word(0x30) >> structure[0x27])
    assert reading.time_raw == raw
    assert reading.time_ns == raw * 10**9 >> 64
    if reading.bounds_ns is not None:
        span = ceil(Fraction(abs(ticks) * word(0x40), 2 ** structure[0x27]))
        error_ns = ceil(Fraction(span * 10**9, 2**64)) + word(0x60)
        exact = Fraction(raw * 10**9, 2**64)
        assert reading.max_error_ns == error_ns
        assert reading.bounds_ns == (clamped(floor(exact) - error_ns), clamped(ceil(exact) + error_ns))
    assert (reading.bounds_ns is None) == (not {"period-maxerror-valid", "time-maxerror-valid"} <= set(page.flags))
    assert repr(reading).startswith("<Reading ")
    if reading.tai_ns is not None and reading.utc_ns is not None and abs(reading.time_ns) < LIMIT - 10**12:
        assert 9 * 10**9 <= reading.tai_ns - reading.utc_ns <= 61 * 10**9


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_a_page_or_an_error(data: bytes) -> None:
    for page in (data, b"VCLK" + data, vmclock.MockPage().snapshot().to_bytes()[:16] + data):
        try:
            snapshot = vmclock.Snapshot.from_bytes(page)
        except ValueError as error:
            assert str(error)
        else:
            evaluate(snapshot, 1)
            assert repr(snapshot)
