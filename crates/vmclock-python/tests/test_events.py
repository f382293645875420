# SPDX-License-Identifier: MIT OR Apache-2.0
from __future__ import annotations

import asyncio
import select
import signal
import subprocess
import threading
from pathlib import Path
from typing import Optional

import pytest
from conftest import LIMIT, good_page, replace

import vmclock


def names(notice: Optional[vmclock.Notice]) -> list[str]:
    assert notice is not None
    return [event.name for event in notice.events]


def test_what_happens_is_reported_once() -> None:
    page = vmclock.MockPage()
    with page.clock().events() as events:
        assert events.wait(0) is None
        page.disrupt()
        notice = events.wait(LIMIT)
        assert notice is not None and names(notice) == ["disrupted"] and notice.kind == "changed"
        assert "disrupted" in notice and "restored" not in notice
        assert notice.before is not None and notice.after is not None
        assert (notice.before.disruption_marker, notice.after.disruption_marker) == (1, 2)
        assert "drop what was measured" in str(notice) and str(notice.events[0]) in str(notice)
        assert notice.events[0] == notice.events[0] and "disrupted" in repr(notice.events[0])
        assert events.wait(0) is None
        page.restore()
        assert names(events.wait(LIMIT)) == ["disrupted", "restored"]
        page.publish(page.snapshot().to_bytes())
        assert events.wait(0) is None  # a refresh is no event
    with pytest.raises(ValueError, match="closed"):
        events.wait(0)


def test_refreshes_on_request() -> None:
    page = vmclock.MockPage()
    with page.clock().events(refreshes=True, interval=0.001) as events:
        page.publish(page.snapshot().to_bytes())
        assert names(events.wait(LIMIT)) == ["refreshed"]


def test_a_page_that_vanishes_and_returns(page: Path) -> None:
    with vmclock.Clock(page).events(interval=0.001) as events:
        page.unlink()
        notice = events.wait(LIMIT)
        assert notice is not None and (notice.kind, notice.loss, notice.events) == ("vanished", "removed", [])
        assert notice.before is None and "removed" in str(notice)
        replace(page, good_page(o0x10=2, o0x68=3))
        notice = events.wait(LIMIT)
        assert notice is not None and (notice.kind, notice.loss) == ("returned", None)
        assert names(notice) == ["disrupted", "restored"]
        assert events.clock.now().epoch.disruption_marker == 2
        assert not events.is_notified


def test_a_loop_over_events_lets_other_threads_go_on() -> None:
    page = vmclock.MockPage()
    seen: list[str] = []

    def watch(events: vmclock.Events) -> None:
        for notice in events:
            seen.extend(names(notice))
            if "restored" in notice:
                return

    thread = threading.Thread(target=watch, args=[page.clock().events(interval=0.001)])
    thread.start()
    page.restore()
    thread.join(LIMIT)
    assert seen == ["disrupted", "restored"]


def test_a_file_descriptor_wakes() -> None:
    page = vmclock.MockPage()
    with page.clock().events(interval=0.001) as events:
        page.disrupt()
        notice = None
        while notice is None:
            readable, _, _ = select.select([events], [], [], LIMIT)
            assert readable
            notice = events.wait(0)
        assert names(notice) == ["disrupted"]


def test_asyncio() -> None:
    page = vmclock.MockPage()

    async def watch() -> list[str]:
        with page.clock().events(interval=0.001) as events:
            loop = asyncio.get_running_loop()
            loop.call_soon(page.disrupt)
            seen = []
            async for notice in events:
                seen += names(notice)
                if "restored" in notice:
                    break
                loop.call_soon(page.restore)
            # A wait that is cancelled loses nothing.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(events.wait_async(), 0.01)
            page.disrupt()
            return seen + names(await asyncio.wait_for(events.wait_async(), LIMIT))

    assert asyncio.run(watch()) == ["disrupted", "disrupted", "restored", "disrupted"]


def test_a_signal_ends_a_wait() -> None:
    class Stopped(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with vmclock.MockPage().clock().events() as events:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Stopped):
                events.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_a_live_publisher_is_told_is_reported(live: Path, command: str) -> None:
    clock = vmclock.Clock(live)
    known = clock.epoch()
    with clock.events(interval=0.001) as events:
        for word, name in (("migrate", "disrupted"), ("snapshot", "restored"), ("soon", "maintenance-soon")):
            subprocess.run([command, "signal", word, "--page", live], check=True, stdout=subprocess.DEVNULL)
            while name not in names(events.wait(LIMIT)):
                pass
    assert not clock.is_current(known)
