# SPDX-License-Identifier: MIT OR Apache-2.0
"""Waiting for events: in a blocking loop, in asyncio, or by a file descriptor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Optional

from ._native import Clock, NativeEvents, Notice


class Events:
    """What happens to a machine, from the moment when `Clock.events` made this.

        for notice in clock.events():
            if "restored" in notice:
                ...  # renew what must be unique

        async for notice in clock.events():
            ...

    Where the device notifies, the kernel wakes the waiting; where it does not, a timer does. Only real changes are
    reported, not mere refreshes of the calibration. A page can vanish, as when its file is removed; then its path is
    tried until there is a page again, and the two are compared. One thread or task at a time may wait.
    """

    def __init__(self, native: NativeEvents) -> None:
        self._native = native

    def wait(self, timeout: Optional[float] = None) -> Optional[Notice]:
        """The next notice; `None` after `timeout` seconds, if that is not `None`. Other threads go on meanwhile.

        An exception is no end: the next call tries again.
        """
        return self._native.wait(timeout)

    async def wait_async(self) -> Notice:
        """The next notice, in asyncio. It may be cancelled: nothing is lost."""
        loop = asyncio.get_running_loop()
        while True:
            notice = self._native.wait(0)
            if notice is not None:
                return notice
            readable = loop.create_future()
            fileno = self._native.fileno()
            loop.add_reader(fileno, _finish, readable)
            try:
                await readable
            finally:
                loop.remove_reader(fileno)

    def fileno(self) -> int:
        """A file descriptor that is readable whenever it is time to call `wait(0)`."""
        return self._native.fileno()

    @property
    def clock(self) -> Clock:
        """The clock whose page is watched: after the notice `returned` another than before."""
        return self._native.clock

    @property
    def is_notified(self) -> bool:
        """Whether the device wakes the waiting, rather than a timer."""
        return self._native.is_notified

    def close(self) -> None:
        """Ends the waiting, and closes the file descriptor."""
        self._native.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Notice]:
        return self

    def __next__(self) -> Notice:
        notice = self.wait()
        assert notice is not None, "without a timeout there is always a notice"
        return notice

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        return await self.wait_async()


def _finish(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
