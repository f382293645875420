# SPDX-License-Identifier: MIT OR Apache-2.0
from __future__ import annotations

import datetime
import os
import pickle
import random
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import LIMIT, good_page
from hypothesis import given
from hypothesis import strategies as st

import vmclock

WAYS: list[dict[str, Any]] = [{}, {"map": False}, {"map_files": False}]


@pytest.fixture(params=WAYS, ids=["mapped", "read", "file-read"])
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_reading_has_everything() -> None:
    mock = vmclock.MockPage()
    clock = mock.clock()
    reading = clock.now()
    assert reading.utc == datetime.datetime(2033, 5, 18, 3, 32, 43, tzinfo=datetime.timezone.utc)
    assert reading.tai_ns == 2_000_000_000 * 10**9 == reading.time_ns == (reading.utc_ns or 0) + 37 * 10**9
    assert reading.bounds_ns == reading.tai_bounds_ns == (reading.time_ns - 1000, reading.time_ns + 1000)
    assert (reading.max_error_ns, reading.status, reading.time_type) == (1000, "synchronized", "tai")
    assert reading.leap_second is False and reading.utc.fold == 0
    assert reading.isoformat() == "2033-05-18T03:32:43.000000000Z"
    assert clock.now_ns() == reading.utc_ns
    assert (reading.epoch.disruption_marker, reading.epoch.generation) == (1, 1)
    assert clock.now() == reading and clock.now_unordered() == reading
    mock.advance(1)
    later = clock.now()
    assert reading != later and reading.certainly_before(later) and later.certainly_after(reading)
    assert (reading.is_before(later), later.is_before(reading), reading.is_before(reading)) == (True, False, None)


def test_a_leap_second_is_sixty_and_folds() -> None:
    page = bytearray(good_page())
    page[0x0A] = 1
    page[0x26] = 1  # one is inserted at the end of this month
    page[0x24:0x26] = (-36).to_bytes(2, "little", signed=True)
    page[0x27] = 0
    page[0x28:0x38] = (0).to_bytes(8, "little") + (2**63).to_bytes(8, "little")
    page[0x48:0x50] = (1_483_228_770 + 36).to_bytes(8, "little")
    snapshot = vmclock.Snapshot.from_bytes(bytes(page))
    texts = {
        59: ("2016-12-31T23:59:59.500000000Z", 59, 0),
        60: ("2016-12-31T23:59:60.000000000Z", 59, 1),
        61: ("2016-12-31T23:59:60.500000000Z", 59, 1),
        62: ("2017-01-01T00:00:00.000000000Z", 0, 0),
    }
    for ticks, (text, second, fold) in texts.items():
        reading = snapshot.at(ticks, "x86-tsc")
        assert reading.isoformat() == text
        assert reading.utc is not None and (reading.utc.second, reading.utc.fold) == (second, fold)
        assert reading.leap_second == (fold == 1)


def smearing_page(indicator: int, hint: int) -> vmclock.Snapshot:
    """UTC half a minute before the end of 2016; its counter has 2^32 ticks a second, and begins at 0."""
    page = bytearray(good_page())
    page[0x0B] = 0  # UTC
    page[0x23] = hint
    page[0x26] = indicator
    page[0x27] = 31
    page[0x28:0x38] = (0).to_bytes(8, "little") + (2**63).to_bytes(8, "little")
    page[0x48:0x58] = (1_483_228_770).to_bytes(8, "little") + (0).to_bytes(8, "little")
    return vmclock.Snapshot.from_bytes(bytes(page))


@given(
    ticks=st.integers(-(50_000 << 32), 50_000 << 32),
    inserted=st.booleans(),
    smearing=st.sampled_from(["noon-linear", "utc-sls"]),
)
def test_smeared_utc_is_as_defined(ticks: int, inserted: bool, smearing: str) -> None:
    reading = smearing_page(1 if inserted else 2, 0).at(ticks % 2**64, "x86-tsc")
    year_end, leap = 1_483_228_800, 1 if inserted else -1
    if smearing == "noon-linear":
        start, length = year_end - 43_200, 86_400 + leap
    else:
        start, length = year_end - 1_000 + (1 if inserted else -1), 1_000
    linear = year_end - 30 + Fraction(ticks, 2**32)
    gone = min(max((linear - start) / length, Fraction(0)), Fraction(1))
    found = reading.smeared_utc_ns(smearing)
    # The share of the leap second that is gone is rounded down, to 2^-64 s.
    assert found is not None and abs(found - (linear - leap * gone) * 10**9) < 2
    assert reading.smeared_utc_ns() is None and reading.smearing_hint == "strict"


def test_a_page_hints_at_how_to_smear() -> None:
    for hint, smearing in ((1, "noon-linear"), (2, "utc-sls")):
        reading = smearing_page(1, hint).at(30 << 32, "x86-tsc")
        assert reading.smearing_hint == smearing
        assert reading.smeared_utc_ns() == reading.smeared_utc_ns(smearing) != reading.utc_ns
    # As in the documentation of the Rust crate.
    assert smearing_page(1, 1).at(30 << 32, "x86-tsc").smeared_utc_ns() == 1_483_228_799_500_005_786
    with pytest.raises(ValueError, match="google"):
        reading.smeared_utc_ns("google")


def test_the_systems_clock_is_beside_the_pages(live: Path) -> None:
    cross = vmclock.Clock(live).cross_timestamp()
    assert cross.realtime_ahead_ns is not None
    low, high = cross.realtime_ahead_ns
    # The page was made of the system's clock.
    assert low <= high and abs(low) < 10**9 and abs(high) < 10**9
    before, after = cross.realtime_counters
    assert cross.monotonic_raw_counters[0] < cross.monotonic_raw_counters[1] < before < after
    assert before <= cross.reading.counter <= after and cross.monotonic_raw_ns > 0
    assert cross.reading == cross.page.at(cross.reading.counter)
    assert abs(cross.realtime_ns - (cross.reading.utc_ns or 0)) < 10**9 and cross == cross


def test_what_a_datetime_cannot_hold_is_an_overflow() -> None:
    reading = vmclock.Snapshot.from_bytes(good_page(o0x48=10**12, o0x18=1)).at(0)
    with pytest.raises(OverflowError, match="utc_ns"):
        reading.utc
    assert reading.utc_ns is not None and "10" in repr(reading)


def test_a_page_without_utc_says_so() -> None:
    page = vmclock.MockPage(good_page(o0x18=0x150))
    clock = page.clock()
    reading = clock.now()
    assert (reading.utc, reading.utc_ns, reading.leap_second, reading.isoformat()) == (None,) * 4
    assert reading.tai_ns is not None
    with pytest.raises(vmclock.NoTimeError) as raised:
        clock.now_ns()
    assert raised.value.reason == "no-utc"


def test_a_page_without_bounds_has_none() -> None:
    reading = vmclock.MockPage(good_page(o0x18=1)).clock().now()
    assert (reading.max_error_ns, reading.bounds_ns, reading.tai_bounds_ns) == (None, None, None)
    assert reading.is_before(reading) is None and "without error bounds" in repr(reading)


def test_a_new_epoch_is_not_current() -> None:
    page = vmclock.MockPage()
    clock = page.clock()
    known = clock.epoch()
    assert clock.is_current(known) and clock.epoch() == known and hash(clock.epoch()) == hash(known)
    for change in (page.disrupt, page.restore):
        change()
        assert not clock.is_current(known) and clock.epoch() != known
        known = clock.epoch()


def test_there_is_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as raised:
        vmclock.Clock(missing)
    assert isinstance(raised.value, vmclock.NoClockError)
    assert raised.value.reason == "no-file" and raised.value.path == str(missing)
    with pytest.raises(vmclock.NoClockError) as device:
        vmclock.Clock("/dev/no-such-vmclock")
    assert device.value.reason in ("no-device", "no-driver")
    monkeypatch.setenv("VMCLOCK_PAGE", str(missing))
    assert vmclock.default_page() == str(missing)
    with pytest.raises(vmclock.NoClockError, match=str(missing)):
        vmclock.Clock()


def test_what_is_not_a_clock_is_named(tmp_path: Path, way: Any) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(vmclock.OpenError, match=str(path)) as raised:
            vmclock.Clock(path, **way)
        return raised.value.reason

    assert reason(tmp_path) == "wrong-kind"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert reason(fifo) == "wrong-kind"
    page = tmp_path / "page"
    for data in (b"", good_page()[:111], bytes(4096), b"\xff" * 4096):
        page.write_bytes(data)
        assert reason(page) == "not-a-page"
    odd = bytearray(good_page())
    odd[0x0C] = 7
    page.write_bytes(odd)
    assert reason(page) == "busy"


def test_values_out_of_range_are_named(page: Path) -> None:
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_wait"):
            vmclock.Clock(page, max_wait=value)
    with pytest.raises(ValueError, match="cpu_counter"):
        vmclock.Snapshot.from_bytes(good_page()).at(0, "hpet")
    with pytest.raises(OverflowError):
        vmclock.Snapshot.from_bytes(good_page()).at(-1)
    with pytest.raises(ValueError, match="timeout"):
        vmclock.Clock(page).events().wait(-1)


def test_a_page_without_time_says_why(tmp_path: Path, way: Any) -> None:
    path = tmp_path / "page"
    for at, value, reason, status in (
        (0x0A, 0xFF, "counter", None),
        (0x22, 1, "status", "initializing"),
        (0x22, 4, "status", "unreliable"),
        (0x22, 200, "status", "unknown status 200"),
        (0x27, 128, "shift", None),
        (0x0B, 3, "time-type", None),
        (0x4F, 0x80, "out-of-range", None),
    ):
        page = bytearray(good_page())
        page[at] = value
        path.write_bytes(page)
        clock = vmclock.Clock(path, **way)
        for read in (clock.now, clock.now_unordered, clock.now_ns):
            with pytest.raises(vmclock.NoTimeError) as raised:
                read()
            assert (raised.value.reason, raised.value.status) == (reason, status)
        assert clock.is_current(clock.epoch()) and clock.snapshot().epoch == clock.epoch()


def test_a_page_that_stays_odd_is_busy_and_then_recovers(page: Path, way: Any) -> None:
    clock = vmclock.Clock(page, max_wait=0.01, **way)
    with page.open("r+b") as file:
        file.seek(0x0C)
        file.write(b"\x09")
        file.flush()
        for read in (clock.now, clock.epoch, clock.snapshot, clock.now_ns):
            with pytest.raises(vmclock.BusyError) as raised:
                read()
            assert raised.value.seq_count == 9
        file.seek(0x0C)
        file.write(b"\x0a")
        file.flush()
        clock.now()


def test_a_file_that_is_cut_short_gives_no_wrong_time(page: Path, way: Any) -> None:
    for length in range(0, 112, 7):
        page.write_bytes(good_page())
        clock = vmclock.Clock(page, **way)
        clock.now()
        os.truncate(page, length)
        for read in (clock.snapshot, clock.check, *([clock.now, clock.now_ns] if length < 0x68 else [])):
            with pytest.raises(vmclock.VanishedError) as raised:
                read()
            assert raised.value.reason == "cut" and raised.value.path == str(page)


def test_random_bytes_are_harmless(tmp_path: Path, way: Any) -> None:
    chance = random.Random(1)
    path = tmp_path / "page"
    gave_time = 0
    for _ in range(200):
        page = bytearray(good_page())
        for _ in range(chance.randrange(3)):
            at = 8 * (2 + chance.randrange(12))
            page[at : at + 8] = chance.randbytes(8)
        path.write_bytes(page)
        clock = vmclock.Clock(path, max_wait=0, **way)
        try:
            reading = clock.now()
        except vmclock.NoTimeError:
            continue
        gave_time += 1
        assert repr(reading) and reading.status in ("synchronized", "free-running")
    assert gave_time > 50


def test_a_clock_says_how_its_page_was_lost(page: Path, way: Any) -> None:
    clock = vmclock.Clock(page, **way)
    clock.check()
    page.unlink()
    with pytest.raises(vmclock.VanishedError, match="removed") as raised:
        clock.check()
    assert raised.value.reason == "removed"
    with pytest.raises(vmclock.NoClockError):
        clock.reopen()
    page.write_bytes(good_page(o0x10=2))
    assert clock.reopen().epoch().disruption_marker == 2
    with pytest.raises(vmclock.VanishedError) as replaced:
        clock.check()
    assert replaced.value.reason == "replaced"


def test_a_closed_clock_says_so(page: Path) -> None:
    with vmclock.Clock(page) as clock:
        assert not clock.closed and clock.is_mapped and clock.path == str(page)
    assert clock.closed
    for use in (clock.now, clock.now_ns, clock.epoch, clock.snapshot, clock.check, clock.events):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_commit_wait() -> None:
    mock = vmclock.MockPage()
    clock = mock.clock()
    reading = clock.now()
    with pytest.raises(TimeoutError) as raised:
        clock.wait_until_after(reading, timeout=0.01)
    assert isinstance(raised.value, vmclock.WaitTimeoutError)
    waited: list[vmclock.Reading] = []
    thread = threading.Thread(target=lambda: waited.append(clock.wait_until_after(reading)))
    thread.start()
    mock.advance(0.001)  # other threads go on meanwhile
    thread.join(LIMIT)
    assert waited[0].certainly_after(reading)
    mock.restore()
    with pytest.raises(vmclock.DisruptedError) as disrupted:
        clock.wait_until_after(reading)
    assert disrupted.value.before == reading.epoch and disrupted.value.now == clock.epoch()
    unbounded = vmclock.MockPage(good_page(o0x18=1)).clock()
    with pytest.raises(vmclock.CannotCompareError):
        unbounded.wait_until_after(unbounded.now())


def test_threads_share_a_clock(page: Path) -> None:
    clock = vmclock.Clock(page)
    failures: list[str] = []

    def read() -> None:
        last = 0
        for _ in range(2000):
            now = clock.now().time_ns
            if now < last:
                failures.append(f"{now} after {last}")
            last = now

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_live_page_gives_this_machines_time(live: Path) -> None:
    clock = vmclock.Clock(live)
    for _ in range(1000):
        before = time.time_ns()
        reading = clock.now()
        after = time.time_ns()
        assert reading.tai_bounds_ns is not None
        earliest, latest = (end - 37 * 10**9 for end in reading.tai_bounds_ns)
        assert earliest <= after and before <= latest
    assert abs(clock.now_ns() - time.time_ns()) < 10**9
    waited = clock.wait_until_after(reading)
    assert waited.certainly_after(reading)


def test_exceptions_are_of_the_package() -> None:
    for name in vmclock.__all__:
        thing = getattr(vmclock, name)
        assert thing.__doc__
        if isinstance(thing, type) and issubclass(thing, Exception):
            assert issubclass(thing, vmclock.VmClockError)
    with pytest.raises(TypeError):
        pickle.dumps(vmclock.MockPage().clock())
