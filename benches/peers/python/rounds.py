# SPDX-License-Identifier: MIT OR Apache-2.0
"""One round of each of Python's ways to read the time for each line on standard input: see ../src/child.rs."""

import itertools
import json
import sys
import time

import vmclock

# Fewer calls in one round than the others have: they take longer.
CALLS = 1_000

clock = vmclock.Clock(sys.argv[1])
epoch = clock.epoch()
is_current = clock.is_current
PEERS = [
    ("python_now_ns", "vmclock for Python, now_ns()", clock.now_ns),
    ("python_now", "vmclock for Python, now()", clock.now),
    ("python_utc", "vmclock for Python, now().utc", lambda: clock.now().utc),
    ("python_is_current", "vmclock for Python, is_current()", lambda: is_current(epoch)),
    ("python_time_ns", "Python's time.time_ns()", time.time_ns),
]


def cost(call):
    """Nanoseconds a call, with those of the loop."""
    repeat = itertools.repeat(None, CALLS)
    start = time.perf_counter_ns()
    for _ in repeat:
        call()
    return (time.perf_counter_ns() - start) / CALLS


print(json.dumps([[key, what] for key, what, _ in PEERS]), flush=True)
for _ in sys.stdin:
    print(json.dumps([cost(call) for _, _, call in PEERS]), flush=True)
