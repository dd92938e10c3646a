import dataclasses
import json
import math
import pathlib
import re
import typing

import pytest

from mln_flax import config as configs
from mln_flax import settings
from mln_flax.config import Config, method, network
from mln_flax.methods.mln import branches
from mln_flax.registry import Room, kinds
from mln_flax.types import UserError

PACKAGE = pathlib.Path(configs.__file__).parent
# Every network and every method once.
CHOICES = [
    *(Config(model=network(name)) for name in kinds(configs.NETWORKS)),
    *(Config(method=method(name)) for name in kinds(configs.METHODS)),
]


def leaves(node, prefix=""):
    """`optim.learning_rate` and its type, for every setting."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


EVERY = {path: kind for config in CHOICES for path, kind in leaves(config)}


def having(path):
    """Settings that have this one: of the default network and method, if they do."""
    return next(config for config in (Config(), *CHOICES) if path in dict(leaves(config)))


def value_of(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def with_value(path, value, config=None):
    """The settings with one value that was never a text."""
    config = having(path) if config is None else config
    name, _, rest = path.partition(".")
    inner = with_value(rest, value, getattr(config, name)) if rest else value
    return dataclasses.replace(config, **{name: inner})


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.learning_rate", "3e-4", 3e-4),
        ("data.phantom.spacing_mm", "1", 1.0),
        ("train.steps", "50", 50),
        ("train.seed", "-1", -1),
        ("data.dir", "/some/where", "/some/where"),
        ("data.dir", "", ""),
        ("model.remat", "true", True),
        ("model.remat", "1", True),
        ("views.flip", "False", False),
        ("views.flip", "0", False),
        ("model.depths", "2,2,18,2", (2, 2, 18, 2)),
        ("model.depths", "(2, 2)", (2, 2)),
        ("model.depths", "[2]", (2,)),
        ("model.depths", "", None),  # as the preset says
        ("model.depths", "none", None),
        ("model.window_size", "None", None),
        ("model.window_size", "7", 7),
        ("model.momentum", "0.9", 0.9),
        ("benchmark.only", "", ()),
        ("method.class_weights", "1,2.5", (1.0, 2.5)),
        ("views.scale", "0.8,1", (0.8, 1.0)),
        ("data.targets", "dbt, film", ("dbt", "film")),
        ("data.targets", "", ()),
        ("views.names", "identity,bezier(0.3),invert(None, True)",
         ("identity", "bezier(0.3)", "invert(None, True)")),
    ],
)  # fmt: skip
def test_override_reads_a_text_as_its_fields_type(path, text, value):
    config = settings.override(Config(), path, text)
    assert value_of(config, path) == value
    assert type(value_of(config, path)) is type(value)
    assert settings.differences(
        settings.to_dict(Config()), settings.to_dict(with_value(path, value))
    ) == settings.differences(settings.to_dict(Config()), settings.to_dict(config))


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optim.learning_rate", "fast", "=fast: must be a number"),
        ("train.steps", "1.5", "=1.5: must be a whole number"),
        ("train.steps", "", "=: must be a whole number"),
        ("model.remat", "maybe", "=maybe: allowed are true and false"),
        ("model.depths", "2,two", "=2,two: must be numbers with commas between them"),
        ("model.depths", "2.5,2", "must be numbers with commas"),
        ("model.depths", "True,2", "must be numbers with commas"),
        ("model.depths", "'2',2", "must be numbers with commas"),
        ("model.depths", "(2,2),2", "must be numbers with commas"),
        ("method.class_weights", "1,,2", "must be numbers with commas"),
        ("views.scale", "0.9", "=0.9: must be two numbers"),
        ("views.scale", "1,2,3", "=1,2,3: must be two numbers"),
        ("optim.learning_rat", "1", "unknown setting 'learning_rat' .did you mean 'learning_rate'"),
        ("optm.learning_rate", "1", "unknown setting 'optm' .did you mean 'optim'"),
        ("zzz", "1", "unknown setting 'zzz'; known here: data, views, model"),
        ("optim", "1", "'optim' is a group of settings; set one of name, learning_rate"),
        ("optim.name.first", "1", "'name' is a value, it has no 'first'"),
    ],
)
def test_override_refuses(path, text, message):
    with pytest.raises(UserError, match=rf"^--config\.{path}.*{message}"):
        settings.override(Config(), path, text)


def test_override_leaves_the_original_and_all_else_as_it_was():
    original = Config()
    changed = settings.override(original, "data.phantom.train", "7")
    assert original == Config()
    assert settings.differences(settings.to_dict(original), settings.to_dict(changed)) == [
        "data.phantom.train: 240 -> 7"
    ]


@pytest.mark.parametrize("config", CHOICES, ids=lambda one: f"{one.model.name}-{one.method.name}")
def test_dict_round_trip_through_json(config):
    assert settings.from_dict(settings.to_dict(config)) == config
    for path, kind in dict(leaves(config)).items():  # nothing at its default, where that can be
        if path in settings.CHOICES:
            continue
        kind = typing.get_args(kind)[0] if type(None) in typing.get_args(kind) else kind
        texts = {int: "3", float: "0.5", bool: "true", str: "x"}
        text = texts.get(kind, "x,y" if "str" in str(kind) else "1,2")
        config = settings.override(config, path, text)
    plain = settings.to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    again = settings.from_dict(json.loads(json.dumps(plain)))
    assert again == config
    assert hash(again) == hash(config)  # tuples, not lists


def test_from_dict_keeps_defaults_and_names_the_nearest_of_an_unknown_field():
    assert settings.from_dict({}) == Config()
    assert settings.from_dict({"train": {"steps": 3}}).train == configs.TrainConfig(steps=3)
    with pytest.raises(UserError, match="config.json: unknown setting 'trian' .* 'train'"):
        settings.from_dict({"trian": {}})
    with pytest.raises(UserError, match="W: train: unknown setting 'step' .* 'steps'"):
        settings.from_dict({"train": {"step": 3}}, where="W")


def test_read_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings.to_dict(Config())), encoding="utf-8")
    assert settings.read_json(path) == Config()
    for broken in ("", "{", "[]", "3", '{"train": 3}', '{"train": {"step": 1}}'):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match="config.json: not the settings of a run"):
            settings.read_json(path)


def test_differences_names_what_changed_and_what_is_on_one_side_only():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    assert settings.differences(old, old) == []
    new = {"a": {"b": 2, "c": [1, 2], "e": True}}
    assert settings.differences(old, new) == ["a.b: 1 -> 2", "a.e: None -> True", "d: x -> None"]


def test_load_file(tmp_path):
    good = tmp_path / "good.py"
    good.write_text("from mln_flax.config import Config\ndef get_config(): return Config()\n")
    assert settings.load_file(str(good)) == Config()
    cases = {
        "wrong.py": ("def get_config(): return 3\n", "must return a mln_flax.config.Config"),
        "fails.py": ("import no_such_module\n", "ModuleNotFoundError"),
        "lacks.py": ("", "AttributeError"),
        "broken.py": ("def", "SyntaxError"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            settings.load_file(str(tmp_path / name))
    with pytest.raises(UserError, match="goood.py: no such file .did you mean 'good.py'"):
        settings.load_file(str(tmp_path / "goood.py"))
    with pytest.raises(UserError, match="no such file$"):
        settings.load_file(str(tmp_path / "nowhere" / "x.py"))


@pytest.mark.parametrize("config", CHOICES, ids=lambda one: f"{one.model.name}-{one.method.name}")
def test_the_defaults_are_valid(config):
    configs.validate(config)


def test_everything_annotated_to_a_field_means_something():
    """A limit that a class does not find, since a field has its name, would check nothing."""
    for config in CHOICES:
        for group in configs._groups(config):
            for hint in settings.hints_of(type(group)).values():
                for mark in settings.marks(hint):
                    known = mark == configs.AFTER_TRAINING or isinstance(mark, Room)
                    assert known or callable(mark), (type(group), hint)


def test_every_number_has_a_limit():
    for path, kind in EVERY.items():
        if path == "views.pairs":  # counts only where curves are drawn, which look at it
            continue
        for value in {float: (math.nan, math.inf), int: (-1,)}.get(kind, ()):
            with pytest.raises(UserError, match=f"--config.{path}"):
                configs.validate(with_value(path, value))


ABOVE_0 = (
    "data.size data.phantom.train data.phantom.validation data.phantom.test "
    "data.phantom.spacing_mm model.num_classes model.mlp_ratio method.temperature "
    "optim.learning_rate train.steps train.batch_size train.log_every_steps "
    "train.evaluate_every_steps evaluate.batch_size train.accumulate train.unlabeled_batch_size "
    "data.point_radius_mm model.patch_size model.embed_dim model.window_size"
).split()
NOT_NEGATIVE = (
    "data.phantom.whole_normal data.phantom.whole_lesions data.phantom.whole_test "
    "data.phantom.seed data.split.seed data.tiles.rows data.tiles.columns data.workers "
    "data.cache_gb method.cross_entropy method.cross_entropy_from_step optim.weight_decay "
    "optim.warmup_steps optim.clip_norm train.seed evaluate.examples benchmark.runs"
).split()
SHARES = (
    "data.split.validation data.split.test data.tiles.min_breast model.momentum "
    "method.hard_negatives train.foreground"
).split()
BELOW_1 = "optim.b1 optim.b2 model.drop_path_rate".split()
INF, NAN = float("inf"), float("nan")
REFUSED = [
    *((path, value, "must be above 0") for path in ABOVE_0 for value in (0, -1, INF, NAN)),
    *((path, value, "must be 0 or more") for path in NOT_NEGATIVE for value in (-1, NAN)),
    *((path, v, "must lie between 0 and 1") for path in SHARES for v in (-0.1, 1.1, NAN)),
    *((path, value, "must be 0 or more, below 1") for path in BELOW_1 for value in (-0.1, 1, NAN)),
    ("model.dtype", "bfloat", "unknown .did you mean 'bfloat16'.*known: float32, bfloat16"),
    ("model.statistics", "layers", "did you mean 'layer'"),
    ("model.norm", "bach", "did you mean 'batch'.*known: channel, sample, instance, batch"),
    ("model.preset", "tinny", "did you mean 'tiny'"),
    ("method.selection", "cosin", "did you mean 'cosine'"),
    ("data.on_error", "ignore", "unknown; known: report, stop"),
    ("method.branch_map", "per_veiw", "did you mean 'per_view'"),
    ("method.answer", "wieghted", "did you mean 'weighted'.*known: branch, weighted"),
    ("method.level", "patient", "unknown; known: image, case, domain"),
    ("data.label", "mass", "unknown; known: nothing, calcification, cluster"),
    ("optim.name", "sgd", "unknown; known: adam, adamw"),
    ("benchmark.only", ("train", "predic"), "did you mean 'predict'"),
    ("benchmark.growth", ("sizes",), "did you mean 'size'.*known: size, k, devices"),
    ("model.num_classes", 3, "2 classes"),
    *((path, 2**31, "must be below 2.31") for path in EVERY if path.endswith(".seed")),
    ("model.depths", (2, 0), "each must be above 0"),
    ("model.depths", (), "needs one or more"),
    ("model.widths", (16, 0), "each must be above 0"),
    ("method.class_weights", (1.0,), "one above 0 for each of 2 classes"),
    ("method.class_weights", (1.0, -1.0), "one above 0 for each of 2 classes"),
    ("data.split.test", 0.85, "leave nothing to train on"),
    ("views.crop", 0.0, "must be above 0, at most 1"),
    ("views.crop", 1.5, "must be above 0, at most 1"),
    ("views.scale", (0.0, 1.0), "must be 0 < low <= high"),
    ("views.scale", (1.1, 0.9), "must be 0 < low <= high"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_validate_refuses(path, value, message):
    group = path.rsplit(".", 1)[0]
    with pytest.raises(UserError, match=rf"--config\.{group}.*{message}"):
        configs.validate(with_value(path, value))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"growth": ("k",), "only": ("train",)}, "only: growth times programs of its own"),
        ({"against_compiled": True}, "against_compiled=true: .* name one by"),
        ({"growth": ("k",), "against": "x.py"}, "against: growth times programs of its own"),
        ({"growth": ("k",), "runs": 0}, "runs=0: compiles .* with growth it must be above 0"),
        ({"against": "x.py", "runs": 0}, "runs=0: compiles .* with against it must be above 0"),
        ({"only": ("forward", "input"), "runs": 0}, "only=forward,input: with runs=0 only train"),
    ],
)
def test_a_benchmark_that_would_not_do_what_is_asked(values, message):
    config = Config()
    for name, value in values.items():
        config = with_value(f"benchmark.{name}", value, config)
    with pytest.raises(UserError, match=rf"^--config\.benchmark\.{message}"):
        configs.validate(config)


@pytest.mark.parametrize("level", ["case", "domain"])
@pytest.mark.parametrize("answer", ["weighted", "mixed", "entropy", "union"])
def test_only_a_branch_is_chosen_for_several_images(answer, level):
    config = with_value("method.selection", "polarity")
    configs.validate(with_value("method.answer", answer, config))
    configs.validate(with_value("method.level", level, config))
    config = with_value("method.level", level, with_value("method.answer", answer, config))
    with pytest.raises(UserError, match=rf"^--config\.method\.level={level}: .*not {answer}$"):
        configs.validate(config)


@pytest.mark.parametrize("answer", branches.BY_PROBABILITIES)
def test_weights_need_the_probabilities_of_polarity(answer):
    for rule in branches.SELECTIONS:
        config = with_value("method.answer", answer, with_value("method.selection", rule))
        if rule == "polarity":
            configs.validate(config)
        else:
            with pytest.raises(
                UserError, match=f"answer={answer}: with selection={re.escape(rule)} "
            ):
                configs.validate(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("views.crop", 1.0),
        ("views.scale", (1.0, 1.0)),
        ("model.momentum", 1.0),
        ("method.hard_negatives", 0.0),
        ("method.class_weights", (0.5, 2.0)),
        ("data.tiles.rows", 0),
        ("optim.b1", 0.0),
        ("model.dtype", "bfloat16"),
    ],
)
def test_validate_allows_the_limits(path, value):
    configs.validate(with_value(path, value))


def test_split_outside_brackets():
    assert settings.split_outside_brackets("a,f(1,(2,3)),b") == ["a", "f(1,(2,3))", "b"]
    assert settings.split_outside_brackets("") == [""]
