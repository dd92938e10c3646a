"""Large pages are asked for once, where the kernel leaves it to the program."""

import os
import sys

import pytest
import tiny

from mln_flax.engine import large_pages


@pytest.mark.parametrize(
    ("kernel", "tunables", "expected"),
    [
        ("always [madvise] never", "", True),
        ("always [madvise] never", "glibc.malloc.check=0", True),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", False),
        ("[always] madvise never", "", False),
        ("always madvise [never]", "", False),
        (None, "", False),
    ],
)
def test_when_they_would_help(tmp_path, monkeypatch, kernel, tunables, expected):
    file = tmp_path / "enabled"
    if kernel:
        file.write_text(kernel + "\n")
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert large_pages.would_help(file) == expected


def test_the_program_starts_again_with_the_same_words(monkeypatch):
    started = []
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    monkeypatch.setattr(large_pages, "would_help", lambda: True)
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mln_flax.main", "--mode=summary"])
    large_pages.use_large_pages()
    words = [sys.executable, "-m", "mln_flax.main", "--mode=summary"]
    assert started == [(sys.executable, words)]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"


def test_the_door_still_answers_with_its_exit_code(tmp_path):
    door = tiny.python("-m", "mln_flax.main", "--mode=nonsense")
    assert "unknown mode" in door.communicate()[1]
    assert door.returncode == 2
