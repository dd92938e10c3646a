"""A tiny packed model in place of the weights in the box."""

import pytest

from mln_flax.engine import packed
from mln_flax.main import main


def pack(workdir, folder, *words):
    """The folder of what `--mode=pack` makes of a workdir."""
    assert main([f"--workdir={workdir}", "--mode=pack", f"--output={folder}", *words]) == 0
    return folder


@pytest.fixture(scope="module", params=["tiny", "plain"])
def both(request, tmp_path_factory):
    """(workdir, packed folder) of MLN-net and of a plain network."""
    workdir = request.getfixturevalue(f"{request.param}_workdir")
    return workdir, pack(workdir, tmp_path_factory.mktemp(request.param) / "packed")


def put(monkeypatch, folder):
    """Makes a folder the box of this process."""
    monkeypatch.setattr(packed, "DETECTOR", folder)
