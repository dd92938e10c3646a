import dataclasses

import pytest
import tiny
import tiny_experiment

from mln_flax import files, settings
from mln_flax.experiments import core
from mln_flax.experiments.core import Row, Shard
from mln_flax.types import UserError


@pytest.fixture
def experiment():
    return tiny_experiment.experiment()


def test_a_file_gives_an_experiment_and_the_command_line_changes_it(tmp_path, experiment):
    path = tmp_path / "mine.py"
    path.write_text(tiny_experiment.FILE)
    changes = {f"base.{name}": value for name, value in tiny_experiment.SETTINGS.items()}
    changes |= {"seeds": "3,1", "sources": "film", "rows": "plain, cosine", "shard": "2/3"}
    found = core.choose(str(path), changes, tmp_path)
    assert found.base == tiny_experiment.base()
    assert (found.seeds, found.sources, found.shard) == ((3, 1), ("film",), "2/3")
    assert [row.name for row in found.shown()] == ["plain", "cosine"]
    assert found.rows == tiny_experiment.ROWS


def test_each_kind_of_file_is_for_its_own_modes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(tiny_experiment.FILE)
    with pytest.raises(UserError, match=r"mine.py: defines get_experiment\(\).*--mode=experiment"):
        settings.load_file(str(path))
    with pytest.raises(
        UserError, match=r"phantom_swin.py: defines get_config\(\), .*--mode=train and"
    ):
        core.load(tiny.PHANTOM)
    path.write_text("def get_experiment(): return 3\n")
    with pytest.raises(UserError, match="must return a mln_flax.experiments.core.Experiment"):
        core.load(str(path))


def test_a_workdir_gives_it_back_without_the_shard(tmp_path, experiment):
    cut = dataclasses.replace(
        experiment, shard="2/3", rows=(*experiment.rows, Row("x", {}, ("dbt",)))
    )
    files.write_json(tmp_path / core.FILE, core.to_dict(cut))
    found = core.read(tmp_path)
    assert found == dataclasses.replace(cut, shard="1/1")
    assert core.choose("", {}, tmp_path) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "must be a group of settings"),
        ("{}", "not an experiment"),
        ('{"rows": [{"name": "x", "settings": {"train.steps": 3}}]}', "must be of type str, not 3"),
        ('{"titel": "x"}', "unknown setting 'titel' .did you mean 'title'"),
    ],
)
def test_a_file_of_a_workdir_edited_by_hand(text, message, tmp_path):
    (tmp_path / core.FILE).write_text(text)
    with pytest.raises(UserError, match=message):
        core.read(tmp_path)


def test_the_settings_of_a_run(experiment):
    config = core.config_of(experiment, experiment.rows[0], "dbt", 7)
    assert config.views.names == ("identity",)
    assert (config.data.source, config.data.targets) == ("dbt", ("ffdm", "film"))
    assert config.train.seed == 7 and config.train.steps == 2
    assert config.method.name == "supervised"


@pytest.mark.parametrize(
    ("text", "shard"), [("1/1", Shard(0, 1)), ("2/3", Shard(1, 3)), ("10/10", Shard(9, 10))]
)
def test_a_shard(text, shard):
    assert core.shard_of(text) == shard


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "a/b", "1/2/3", "-1/2", "1 / 2"])
def test_no_shard(text):
    with pytest.raises(UserError, match="must be I/N with I from 1 to N, as in 2/3"):
        core.shard_of(text)


WRONG = {
    "row": ({"only": ("plian",)}, "--config.rows=plian: unknown (did you mean 'plain'?); known: "),
    "source": ({"sources": ("flim",)}, "sources=flim: unknown (did you mean 'film'?); known: ffdm"),
    "against": ({"against": "cosin"}, "against=cosin: unknown (did you mean 'cosine'?)"),
    "figure": ({"figure": "pair"}, "figure=pair: unknown (did you mean 'pairs'?); known: nothing"),
    "shard": ({"shard": "3/2"}, "--config.shard=3/2: must be"),
    "no rows": ({"rows": (), "against": ""}, "--config.rows: is empty"),
    "no seeds": ({"seeds": ()}, "--config.seeds: is empty"),
    "no sources": ({"sources": ()}, "--config.sources: is empty"),
    "one domain": ({"domains": ("ffdm",), "sources": ("ffdm",)}, "at least one other domain"),
    "twice a row": ({"rows": (Row("plain"), Row("plain"))}, "rows: 'plain' is there twice"),
    "a chosen row twice": ({"only": ("plain", "plain")}, "--config.rows: 'plain' is there twice"),
    "a row's name": (
        {"rows": (Row("plain, small"),), "against": ""},
        "row 'plain, small': a comma stands between rows in --config.rows, so a name can have none",
    ),
    "twice a seed": ({"seeds": (0, 1, 0)}, "seeds: 0 is there twice"),
    "a seed": ({"seeds": (-1,)}, "row 'plain': --config.train.seed=-1: must be 0 or more"),
    "a row's source": ({"rows": (Row("plain", {}, ("fim",)),)}, "rows: plain: sources=fim: unkn"),
    "a row's setting": (
        {"rows": (Row("plain", {"train.stps": "3"}),)},
        "row 'plain': --config.train.stps: unknown setting 'stps' (did you mean 'steps'?)",
    ),
    "a row's value": (
        {"rows": (Row("plain", {"train.steps": "0"}),)},
        "row 'plain': --config.train.steps=0: must be above 0",
    ),
    "a row's choice": (
        {"rows": (Row("plain", {"method.selection": "cosin"}),)},
        "row 'plain': --config.method.selection=cosin: unknown (did you mean 'cosine'?)",
    ),
    "a row's setting of another method": (
        {"rows": (Row("plain", {"method.selection": "cosine", "method.name": "supervised"}),)},
        "row 'plain': --config.method.selection: unknown setting 'selection'",
    ),
    "a row's number": (
        {"rows": (Row("plain", {"views.crop": 0.6}),)},  # type: ignore[dict-item]
        "row 'plain': views.crop: 0.6 must be a text, as on the command line: '0.6'",
    ),
    "a row's seed": (
        {"rows": (Row("plain", {"train.seed": "3"}),)},
        "row 'plain': train.seed is no setting of a row",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_refused(name, experiment):
    core.validate(experiment)
    changes, message = WRONG[name]
    with pytest.raises(UserError) as error:
        core.validate(dataclasses.replace(experiment, **changes))
    assert message in str(error.value)


def test_rows_sources_and_seeds_may_be_added(experiment):
    new = dataclasses.replace(
        experiment,
        rows=(Row("new", {"train.steps": "2"}), experiment.rows[0]),
        sources=("film",),
        domains=("film", "ffdm", "dbt"),
        seeds=(1, 2),
        shard="2/2",
    )
    found = core.merged(experiment, new, "W")
    assert [row.name for row in found.rows] == ["plain", "cosine", "euclidean", "new"]
    assert found.sources == ("ffdm", "dbt", "film") and found.seeds == (0, 1, 2)
    assert found.domains == experiment.domains  # else the runs that are done had other settings
    assert core.merged(found, experiment, "W").rows == found.rows


def test_a_choice_of_rows_adds_up(experiment):
    one, two = (dataclasses.replace(experiment, only=only) for only in (("plain",), ("cosine",)))
    assert core.merged(one, two, "W").only == ("plain", "cosine")
    assert core.merged(one, experiment, "W").only == ()
    assert core.merged(experiment, one, "W").only == ()


def test_a_row_may_get_more_sources(experiment):
    old, new, every = (
        dataclasses.replace(experiment, rows=(Row("plain", {}, sources),))
        for sources in (("ffdm",), ("dbt",), ())
    )
    assert core.merged(old, new, "W").rows[0].sources == ("ffdm", "dbt")
    assert core.merged(old, every, "W").rows[0].sources == ()
    assert core.merged(every, old, "W").rows[0].sources == ()


def test_a_report_of_a_part(experiment):
    found = core.narrowed(experiment, {"rows": "cosine", "seeds": "1"})
    assert found == dataclasses.replace(experiment, only=("cosine",), seeds=(1,))
    assert core.narrowed(experiment, {}) == experiment


def test_another_experiment_is_refused(experiment):
    steps = settings.override(experiment, "base.train.steps", "5")
    with pytest.raises(UserError, match="another experiment .base.train.steps: 2 -> 5.; take an"):
        core.merged(experiment, steps, "W")
    row = dataclasses.replace(experiment, rows=(Row("plain", {"views.names": "invert"}),))
    with pytest.raises(UserError, match="rows.plain.views.names: identity -> invert"):
        core.merged(experiment, row, "W")
    domains = dataclasses.replace(experiment, domains=("ffdm", "dbt"))
    with pytest.raises(UserError, match="domains: "):
        core.merged(experiment, domains, "W")
    pictures = settings.override(experiment, "base.evaluate.examples", "0")
    assert core.merged(experiment, pictures, "W") == pictures
