import numpy as np
import pytest

from mln_flax.benchmark import timing
from mln_flax.benchmark.timing import Spread


def test_a_spread_is_the_median_with_its_quartiles():
    values = [5.0, 1.0, 9.0, 3.0, 7.0]
    assert Spread.of(values) == Spread(5.0, 3.0, 7.0)
    assert Spread.of(iter(values)) == Spread.of(sorted(values))
    assert Spread.once(2.0) == Spread(2.0, 2.0, 2.0)


def test_a_rate_turns_the_quartiles_around():
    assert Spread(0.5, 0.25, 1.0).rate(2) == Spread(4.0, 2.0, 8.0)
    assert Spread(4.0, 2.0, 8.0).times(0.5) == Spread(2.0, 1.0, 4.0)


def test_programs_take_turns_after_warming_up(monkeypatch):
    calls = []
    # The clock is asked around every second call only.
    clock = iter(np.cumsum([0, 1, 0, 10, 0, 2, 0, 20, 0, 3, 0, 60]).tolist())
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing, "PAUSE_S", 0)
    programs = {name: lambda name=name: calls.append(name) for name in ("ours", "theirs")}
    found = timing.alternate(programs, runs=3)
    warm = ["ours"] * timing.WARM_UPS + ["theirs"] * timing.WARM_UPS
    assert calls == [*warm, *["ours", "ours", "theirs", "theirs"] * 3]
    assert found == {"ours": Spread(2, 1.5, 2.5), "theirs": Spread(20, 15, 40)}


@pytest.mark.skipif(not (timing.PROCESS / "clear_refs").exists(), reason="not Linux")
def test_memory_that_a_program_takes_and_gives_back_is_seen():
    held = np.ones(2**25)  # 256 MiB that are no part of it
    risen = timing.risen_bytes(lambda: np.ones(2**24).sum())
    assert risen == pytest.approx(2**27, rel=0.1)
    assert held.all()


def test_without_linux_memory_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "PROCESS", tmp_path / "nothing")
    assert timing.risen_bytes(lambda: None) is None
