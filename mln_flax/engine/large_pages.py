"""Large memory pages for the arrays of a step: on Linux they decide the speed on CPUs.

XLA asks the C library for fresh memory in every step and gives it back after it. With pages of
4 KiB the kernel then maps and clears hundreds of thousands of them a step; with 2 MiB it is a few
hundred. Where the kernel leaves the choice to programs (`madvise`, the usual setting), the C
library makes it when the program starts, and only then.
"""

import os
import sys
from pathlib import Path

TUNABLES, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> None:
    """Starts this program again, in the same process, with large pages; or does nothing.

    Nothing is done where they are on already, where the kernel forbids them, where the user has
    decided (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0`), and on other systems.
    """
    if not would_help():
        return
    os.environ[TUNABLES] = ":".join(filter(None, [os.environ.get(TUNABLES), f"{SETTING}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def would_help(kernel: Path = KERNEL) -> bool:
    """Whether the kernel asks programs about large pages and nobody has answered yet."""
    if SETTING in os.environ.get(TUNABLES, ""):
        return False
    try:
        return "[madvise]" in kernel.read_text()
    except OSError:  # not Linux, or a kernel without them
        return False
