# SPDX-License-Identifier: MIT OR Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmclock

LIMIT = 60.0
"""What a busy machine may take, in seconds."""


def good_page(**changes: int) -> bytes:
    """A page that gives time: TAI, from this CPU's counter, at 1 GHz. `changes` maps `o0x68` to eight bytes there."""
    page = bytearray(vmclock.MockPage().snapshot().to_bytes())
    page[0x0A] = 0 if os.uname().machine == "aarch64" else 1
    page[0x27] = 29
    page[0x30:0x38] = (2**93 // 10**9).to_bytes(8, "little")
    page[0x60:0x68] = (0x0102_0304).to_bytes(8, "little")
    page[0x10:0x18] = (0x1111_2222_3333_4444).to_bytes(8, "little")
    page[0x68:0x70] = (0x5555_6666_7777_8888).to_bytes(8, "little")
    page[0x0C:0x10] = bytes(4)
    for offset, value in changes.items():
        at = int(offset[1:], 16)
        page[at : at + 8] = value.to_bytes(8, "little")
    return bytes(page) + bytes(4096 - len(page))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file with a good page."""
    path = tmp_path / "page"
    path.write_bytes(good_page())
    return path


@pytest.fixture(scope="session")
def command() -> str:
    """The built command `vmclock`, which publishes pages."""
    path = os.environ.get("VMCLOCK_COMMAND")
    if path is None:
        pytest.skip("VMCLOCK_COMMAND does not name the command `vmclock`")
    return path


@pytest.fixture
def live(command: str, tmp_path: Path) -> Iterator[Path]:
    """A page on which this machine's clock is published until the test ends."""
    path = tmp_path / "live"
    arguments = ["serve", "--json", "--page", str(path), "--reference", "host-clock", "--tai-offset", "37"]
    with subprocess.Popen([command, *arguments], stdout=subprocess.PIPE, text=True) as publisher:
        assert publisher.stdout is not None
        assert any(json.loads(line)["event"] == "synchronized" for line in publisher.stdout), "it ended"
        yield path
        publisher.send_signal(signal.SIGTERM)


def replace(path: Path, page: bytes) -> None:
    """A new file at the path, complete before it has its name."""
    new = path.with_suffix(".new")
    new.write_bytes(page)
    shutil.move(new, path)
