"""The lock of a folder: freed by the death of its holder, and missing on some systems."""

import errno
import sys

import pytest
import tiny

from mln_flax import locks
from mln_flax.types import UserError

HOLD = """
import pathlib, sys, time
from mln_flax import locks
with locks.alone(pathlib.Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def refuse():
    raise UserError("busy")


def test_the_lock_of_a_process_that_is_killed_is_free(tmp_path):
    process = tiny.python("-c", HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="busy"), locks.alone(tmp_path, refuse):
        raise AssertionError
    process.kill()
    process.communicate()
    with locks.alone(tmp_path, refuse):
        with pytest.raises(UserError, match="busy"), locks.alone(tmp_path, refuse):
            raise AssertionError
    with locks.alone(tmp_path, refuse):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [locks.LOCK]


def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch, capsys):
    import fcntl

    def flock(_file, _how):
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    number = errno.ENOSYS  # as some file systems answer that are mounted over a network
    with locks.alone(tmp_path, refuse):
        assert "no locks here; start nothing else on this folder" in capsys.readouterr().out
    number = errno.EIO
    with pytest.raises(OSError, match="no"), locks.alone(tmp_path, refuse):
        raise AssertionError
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with locks.alone(tmp_path, refuse):
        assert "no locks here" in capsys.readouterr().out
