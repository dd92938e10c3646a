"""The lock of a folder: one process holds it, and the system takes it back when that one ends."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK = ".lock"
# What file systems without locks say, such as some that are mounted over a network.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def alone(folder: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Holds the folder's lock inside the block; where there are no locks, says so and goes on.

    Args:
      folder: it must be there.
      busy: called where another process holds the lock; raises, or returns to wait for it.
    """
    # Opened to add to it: nothing is added, so that the file's time stays what it was.
    with open(folder / LOCK, "a") as file:
        try:
            import fcntl  # on Unix alone

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            print(f"{folder}: no locks here; start nothing else on this folder", flush=True)
        yield
