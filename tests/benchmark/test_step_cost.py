"""What the settings of memory and precision do to a train step."""

import jax
import numpy as np
import pytest
import tiny

from mln_flax import parallel
from mln_flax.benchmark import run as benchmark
from mln_flax.benchmark import step_cost
from mln_flax.engine.build import build

DEEP = {"data__size": "64", "views__crop": "1", "model__depths": "2", "model__num_heads": "1"}


def planned_bytes(**changes):
    return step_cost.compiled(build(tiny.config(**DEEP | changes))).peak_bytes


def test_parts_save_memory_and_recomputing_saves_more():
    plain, parted = planned_bytes(), planned_bytes(train__accumulate="3")
    both = planned_bytes(model__remat="true", train__accumulate="3")
    assert parted < 0.5 * plain and both < 0.75 * parted


@pytest.fixture(scope="module")
def one_step():
    """The state after a step, and what was measured in it, by `model.dtype`."""

    def step(dtype):
        small = {"model__depths": "1", "model__num_heads": "1", "views__names": "identity,invert"}
        run = build(tiny.config(**small, model__dtype=dtype, optim__warmup_steps="0"))
        state = parallel.replicate(benchmark.random_state(run))
        side = run.config.views.crop_side(run.config.data.size)
        batch = parallel.shard(benchmark.random_batch(run, side))
        return jax.device_get(parallel.parallel_update(run.method.update)(state, batch))

    return {dtype: step(dtype) for dtype in ("float32", "bfloat16")}


def test_half_precision_computes_the_same_step_and_keeps_whole_parameters(one_step):
    state, measured = one_step["bfloat16"]
    whole, wanted = one_step["float32"]
    for leaf in jax.tree.leaves((state.params, state.domain_stats, measured)):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
    assert measured["loss"] != wanted["loss"]
    assert measured["loss"] == pytest.approx(wanted["loss"], rel=0.02)


def test_gradients_of_half_precision_point_where_those_of_single_do(one_step):
    def gradient(dtype):
        state = one_step[dtype][0]
        moment = next(part.mu for part in state.opt_state if hasattr(part, "mu"))
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moment)])

    half, single = gradient("bfloat16"), gradient("float32")
    cosine = half @ single / np.sqrt((half @ half) * (single @ single))
    assert cosine > 0.99
