"""The lock of a folder: one process holds it, and the system takes it back when that one ends."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from mln_flax.types import UserError

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


@contextlib.contextmanager
def output(folder: Path) -> Iterator[None]:
    """Holds the folder of `--output`, made if there is none, for this command alone.

    Raises:
      UserError: it is a file, or another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output={folder}: is a file, or below one; give a folder") from None

    def busy() -> None:
        raise UserError(f"--output={folder}: another process is at work in it; take another")

    with alone(folder, busy):
        yield
