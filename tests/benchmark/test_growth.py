"""Tables of the time per image against one thing that grows."""

import pytest
import tiny

from mln_flax.benchmark import growth
from mln_flax.engine.build import build
from mln_flax.types import UserError
from mln_flax.views import intensity


def rates(**seconds):
    return {f"{name}_images_per_s": 1 / spent for name, spent in seconds.items()}


def test_seconds_are_per_image():
    found = {"forward_images_per_s": 4.0, "train_images_per_s": None, "compile_s": 3.0}
    assert growth.seconds(found) == {"forward": 0.25}


def test_size_grows_alone():
    seen = []

    def measure(config):
        seen.append((config.data.size, config.train.batch_size, config.benchmark.only))
        return rates(forward=config.data.size**2 / 1e6)

    table, rows = growth.by_size(tiny.config(benchmark__against="x"), measure)
    assert seen == [(size, 1, ("forward",)) for size in growth.SIZES]
    assert [row["size"] for row in rows] == list(growth.SIZES)
    assert {row[-1] for row in table.rows} == {"1.000"}  # s per million pixels


def test_every_number_of_branches_has_its_own_views():
    seen = []

    def measure(config):
        names = intensity.view_names(config.views, 0)
        seen.append(intensity.branch_map(names, config.method.branch_map)[1])
        assert config.benchmark.against == "" and config.benchmark.growth == ()
        assert config.train.accumulate == len(names)
        return rates(train_views=2.0 * len(names), predict=1.0, predict_all=1.0 * len(names))

    config = tiny.config(benchmark__growth="k", method__branch_map="grouped", train__accumulate="3")
    table, rows = growth.by_branches(config, measure)
    assert [len(names) for names in seen] == list(growth.BRANCHES)
    assert [(row["k"], row["predict_all"]) for row in rows] == [(k, k) for k in growth.BRANCHES]
    assert [row[-1] for row in table.rows] == ["2.000"] * len(growth.BRANCHES)


def test_each_number_of_devices_has_its_own_process(monkeypatch):
    asked = []

    def elsewhere(config, devices):
        asked.append((devices, config.train.batch_size, config.benchmark.only))
        return rates(forward=0.5, train=2.0)

    monkeypatch.setattr(growth, "elsewhere", elsewhere)
    table, _ = growth.by_devices(tiny.config(), measure=None)
    assert asked == [(n, max(growth.DEVICES), ("forward", "train")) for n in growth.DEVICES]
    assert table.rows[0] == ("1", "0.500", "2.000")


def test_tables_are_printed_as_markdown(capsys):
    config = tiny.config(benchmark__growth="size")
    said = growth.growth(config, lambda changed: rates(forward=1.0))
    assert [row["size"] for row in said["growth"]["size"]] == list(growth.SIZES)
    assert "| side, pixels | one pass, s |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["size", "k"])
def test_a_unet_can_be_built_at_every_size_and_number_of_branches(name, capsys):
    unet = {"model__name": "unet", "model__preset": "unet_demo", "model__norm": "batch"}
    branches = []

    def measure(config):
        branches.append(build(config).model.num_branches)
        return rates(forward=1.0, predict=1.0, predict_all=1.0, train_views=1.0)

    growth.growth(tiny.config(**unet, benchmark__growth=name), measure)
    assert branches == [3] * len(growth.SIZES) if name == "size" else list(growth.BRANCHES)
    assert ": unet unet_demo (norm batch), " in capsys.readouterr().out


def test_a_process_of_its_own_has_the_devices():
    config = growth.changed_to(tiny.config(**tiny.PLAIN, benchmark__runs="0"), ("train",))
    said = growth.elsewhere(config, 2)
    assert said["settings"]["devices"] == "2 x cpu" and said["peak_memory_gb"] > 0
    assert said["train_images_per_s"] is None


def test_what_went_wrong_there_is_said():
    config = growth.changed_to(tiny.config(), ("nothing",))
    with pytest.raises(
        UserError, match="growth=devices: 2 devices: error: .*only=nothing: unknown"
    ):
        growth.elsewhere(config, 2)


def test_a_network_without_branches_has_no_number_of_them_to_grow():
    config = tiny.config(**tiny.PLAIN, benchmark__growth="k")
    with pytest.raises(UserError, match="growth=k: method.name=supervised has one branch; allowed"):
        growth.growth(config, lambda changed: {})
