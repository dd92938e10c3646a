"""The flag that XLA for CPUs is given, and that it is there in time."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from mln_flax import cpu
from mln_flax.cpu import FLAG


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", "", f"{FLAG}=-individual_convolution"),
        ("0.10.2", "--xla_a=1", f"--xla_a=1 {FLAG}=-individual_convolution"),
        ("0.10.2", f"{FLAG}=dot", f"{FLAG}=dot"),  # the user has decided
        ("0.11.0", "--xla_a=1", "--xla_a=1"),  # nobody knows whether it has the flag
    ],
)
def test_the_library_behind_convolutions(monkeypatch, version, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    cpu.prefer_eigen()
    assert os.environ["XLA_FLAGS"] == after


def test_importing_the_package_sets_it_and_does_not_import_jax():
    text = "import mln_flax, os, sys; print('jax' in sys.modules, os.environ.get('XLA_FLAGS', ''))"
    bare = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=bare, capture_output=True, text=True, check=True
    )
    known = metadata.version("jaxlib").startswith("0.10.")
    assert done.stdout.strip() == f"False {FLAG}=-individual_convolution" if known else "False"
