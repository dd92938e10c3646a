"""What all tests share: programs compiled quickly and once each, and nothing kept afterwards."""

import atexit
import os
import shutil
import tempfile

import pytest

# Read by XLA and jax when they start, so these must stand before jax is imported anywhere.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Programs that several tests compile, some of them in processes of their own, are compiled once.
_compiled = tempfile.mkdtemp(prefix="mln_flax_tests_")
atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ["MLN_FLAX_PHANTOM_CACHE"] = os.path.join(_compiled, "phantoms")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


@pytest.fixture(scope="session")
def tiny_workdir(tmp_path_factory):
    """The workdir of one tiny run through the door, trained and evaluated: to be read only."""
    import tiny

    from mln_flax.main import main

    workdir = tmp_path_factory.mktemp("tiny") / "run"
    assert main(tiny.flags(workdir)) == 0
    return workdir
