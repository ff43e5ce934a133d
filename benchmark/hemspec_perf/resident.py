"""Peak memory of a step on the CPU, as the kernel counts resident pages: the same way for every framework."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MMAP_THRESHOLD: Final = -3
TRIM_THRESHOLD: Final = -1
FEWEST_BYTES: Final = 4_000_000
"""Below this, pages and caches hide what a step needs."""


def peak_extra(step: Callable[[], Any]) -> int:
    """Bytes that are resident at the worst moment of a step and were not before it, its results included.

    The allocator is told to ask the kernel for everything larger than a page or two and to give it back at once, so
    that what it kept of earlier steps does not hide anything.

    Raises:
        OSError: the kernel has no such counter (only Linux's has).
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        raise OSError("the C library is not glibc")
    libc.mallopt(MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(TRIM_THRESHOLD, 1 << 16)
    peaks = []
    try:
        for _ in range(2):  # the first may still find memory that was kept
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
            before = _status("VmRSS")
            result = step()
            peaks.append(_status("VmHWM") - before)
            del result
    finally:
        # Where glibc's own rule ends once a large block was freed: otherwise later times would hold page faults.
        libc.mallopt(MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(TRIM_THRESHOLD, 1 << 26)
    return peaks[-1]


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {key}")
    return 1024 * int(found[1])
