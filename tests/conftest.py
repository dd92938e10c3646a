"""What all tests share: programs compiled quickly and once each, and nothing kept afterwards."""

import atexit
import fcntl
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
    return _trained(tmp_path_factory, "tiny", {})


@pytest.fixture(scope="session")
def plain_workdir(tmp_path_factory):
    """Likewise of a U-Net without branches, for what any trained workdir shows."""
    import tiny

    return _trained(tmp_path_factory, "plain", tiny.PLAIN)


def _trained(tmp_path_factory, name, changes):
    """The workdir of a run that the first worker to ask for it trains, for all workers."""
    import tiny

    from mln_flax.main import main

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own in it
    workdir = shared / f"{name}_run"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed
        if not (workdir / "report" / "index.html").exists():  # which is written last
            assert main(tiny.flags(workdir, **changes)) == 0
    return workdir
