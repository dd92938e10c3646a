import dataclasses
import re

import jax
import pytest

from mln_flax.benchmark import summary
from mln_flax.config import Config, network
from mln_flax.engine.build import build
from mln_flax.models import core


@pytest.fixture(scope="module")
def run():
    config = Config()
    return build(
        dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, size=16),
            model=network("swin_unet", embed_dim=4, depths=(1,), num_heads=(1,)),
            train=dataclasses.replace(config.train, batch_size=1),
        )
    )


@pytest.fixture(scope="module")
def lines(run):
    """Without the step's memory, for which it would be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "_memory", lambda run, rows: "")
        return summary.summary(run).splitlines()


def shapes_of(run):
    image, branch = jax.numpy.zeros((1, 16, 16, 1)), jax.numpy.zeros(1, int)
    return jax.eval_shape(run.model.init, jax.random.key(0), image, branch)["params"]


def test_counts_are_those_of_the_network(run, lines):
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(run)))
    plain = run._replace(method=run.method._replace(model=run.model.clone(num_branches=1)))
    per_branch = (total - sum(leaf.size for leaf in jax.tree.leaves(shapes_of(plain)))) // 3
    shared = total - 4 * per_branch
    assert f"parameters: {total:,} = {shared:,} shared + 4 x {per_branch:,} per branch" in lines
    assert "input: 16 x 16 pixels; branches: 4" in lines


def test_every_part_of_the_network_has_its_row(run, lines):
    rows = {
        cells[0]: [int(cell.replace(",", "")) for cell in cells[1:]]
        for cells in map(str.split, lines)
        if len(cells) == 3 and re.fullmatch(r"[\d,]+", cells[2])
    }
    params = shapes_of(run)
    assert set(rows) == set(params)
    for name, (shared, branched) in rows.items():
        assert shared + branched == sum(leaf.size for leaf in jax.tree.leaves(params[name]))
    assert rows["norm"] == [0, 4 * 2 * 4]


def test_a_unet_is_counted_too_and_its_memory_is_stated_in_gib(run):
    model = network("unet", widths=(2, 3), norm="batch")
    other = build(dataclasses.replace(run.config, model=model))
    lines = summary.summary(other).splitlines()
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(other)))
    per_branch = 2 * (2 * 2 + 2 * 3 + 2 * 2)  # scale and bias of two norms in each of three stages
    shared = total - 4 * per_branch
    assert f"parameters: {total:,} = {shared:,} shared + 4 x {per_branch:,} per branch" in lines
    assert [line.split() for line in lines if line.startswith("up_0")] == [
        ["up_0", str(9 * 4 * 2 + 9 * 2 * 2), str(4 * 2 * 2 * 2)]
    ]
    held = r"one step on each of \d+ device\(s\), \d+ rows: [\d.]+ GiB = [\d.]+ state and batch"
    assert re.fullmatch(held + r" \+ [\d.]+ temporary", lines[-1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("norm/scale", True),
        ("norm_up/bias", True),
        ("layers_0_blocks_1/norm2/bias", True),
        ("up/norm/scale", True),
        ("down_0/norm2/scale", True),
        ("down_0/conv2/bias", False),
        ("upsample_0/bias", False),
        ("patch_embed/proj/bias", False),
        ("layers_0_blocks_1/mlp/fc1/kernel", False),
        ("layers_0_blocks_1/attn/relative_position_bias_table", False),
    ],
)
def test_is_per_branch(name, expected):
    assert core.is_per_branch(name) == expected
