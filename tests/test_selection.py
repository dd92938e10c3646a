"""The branch chosen from the first norms, or from the image, and run alone."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mln_flax import branches, decision, evaluate, metrics, selection, views
from mln_flax.build import build, load_data
from mln_flax.source_bank import Early

MOMENT_RULES = branches.METRICS


@pytest.fixture(scope="module")
def run():
    return build(tiny.config())


@pytest.fixture(scope="module")
def trained(run, tiny_workdir):
    return evaluate.load_model(run, tiny_workdir)


@pytest.fixture(scope="module")
def order(run):
    return selection.norm_order(run)


@pytest.fixture(scope="module")
def data(run):
    return load_data(run.config)


@pytest.fixture(scope="module")
def images(data):
    """Seven images through different views: a full batch of four and a padded one."""
    shown = [*data.examples("ffdm", "test"), *data.examples("film", "test")][:7]
    seen = [views.make_view(name).numpy for name in tiny.VIEWS]
    return np.stack([seen[i % 3](example.image) for i, example in enumerate(shown)])


@pytest.fixture(scope="module")
def whole(run, trained, images):
    return selection.predictor(run, trained)(images)


def with_rule(run, rule, early=True):
    method = dataclasses.replace(run.config.method, selection=rule, early=early)
    return run._replace(config=dataclasses.replace(run.config, method=method))


def from_norms(trained, rule, norms):
    """The model, had source validation asked for so many norms."""
    total = len(trained.bank.mean)
    early = Early(np.int64(norms), *(np.ones(total) for _ in range(3)))
    return trained._replace(early=trained.early | {rule: early})


def doubled(params, path):
    """The parameters with twice the scale of the norm at a path."""
    if not path:
        return params | {"scale": 2 * params["scale"]}
    return params | {path[0]: doubled(params[path[0]], path[1:])}


def test_each_norm_moves_the_moments_of_the_next_and_of_none_before(run, trained, order, images):
    assert sorted(order) == sorted(trained.bank.mean)
    batch = images[:1, ..., None]

    @jax.jit
    def moments(params):
        branch = np.zeros(1, np.int32)
        return run.model.apply({"params": params}, batch, branch, train=False)[1]["moments"]

    rng = np.random.default_rng(0)
    # Away from the trained values, where a projection might happen to be blind to a scale.
    params = jax.tree.map(lambda p: p + rng.normal(scale=0.1, size=p.shape), trained.params)
    params = jax.tree.map(lambda p: np.asarray(p, np.float32), params)
    before = moments(params)
    for place, layer in enumerate(order):
        after = moments(doubled(params, layer.split("/")))
        moved = [
            other
            for other in order
            if any(
                not np.array_equal(a, b) for a, b in zip(before[other], after[other], strict=True)
            )
        ]
        assert moved[:1] == list(order[place + 1 : place + 2]), layer


def test_what_the_first_norms_do_not_need_is_not_compiled(run, trained, order, images):
    variables, batch = {"params": trained.params}, images[:4, ..., None]

    def compiled(layers):
        function = jax.jit(lambda v, x: selection.first_moments(run, layers, v, x))
        return function.lower(variables, batch).compile()

    one, few, every = (compiled(order[:m]) for m in (1, 3, len(order)))
    flops = [program.cost_analysis()["flops"] for program in (one, few, every)]
    assert flops[0] < flops[1] / 2 and flops[1] < flops[2] / 2
    found, wanted = few(variables, batch), every(variables, batch)
    assert set(found) == set(order[:3])
    for layer in found:
        for a, b in zip(found[layer], wanted[layer], strict=True):
            assert a.shape == (4, 3, a.shape[-1])
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [*MOMENT_RULES, "image"])
def test_the_chosen_branch_alone_answers_as_among_all(run, trained, images, whole, rule):
    norms = 0 if rule == "image" else 3
    model = trained if rule == "image" else from_norms(trained, rule, norms)
    said = selection.selected(with_rule(run, rule), model)(images)
    np.testing.assert_array_equal(said.chosen, whole.chosen(rule, norms))
    assert said.chosen.dtype == np.int32 and said.probability.shape == images.shape
    for i, branch in enumerate(said.chosen):
        np.testing.assert_allclose(said.probability[i], whole.probability[i, branch], atol=1e-5)
        np.testing.assert_array_equal(
            said.mask(i), decision.decide(said.probability[i], trained.point)
        )
    if rule == "image":
        assert len(set(said.chosen[:4].tolist())) > 1  # branches are mixed in one batch


def test_all_branches_run_where_they_are_asked_for_or_must(run, trained, images, whole, order):
    for rule, early, norms in (("image", False, 0), ("cosine", False, 1), ("cosine", True, -1)):
        model = from_norms(trained, rule, norms % (len(order) + 1))
        asked = with_rule(run, rule, early)
        assert not selection.is_early(asked, model)
        said = selection.selected(asked, model)(images)
        np.testing.assert_array_equal(said.chosen, whole.chosen(rule))
        for i, branch in enumerate(said.chosen):
            np.testing.assert_allclose(said.probability[i], whole.probability[i, branch], atol=1e-6)
    assert selection.is_early(with_rule(run, "cosine"), from_norms(trained, "cosine", 1))
    assert selection.is_early(run, trained)


def test_an_answer_depends_on_no_company(run, trained, images):
    answer = selection.selected(run, trained)
    together = answer(images)
    for i in (0, 5):
        alone = answer(images[[i]])
        assert alone.chosen[0] == together.chosen[i]
        np.testing.assert_allclose(alone.probability[0], together.probability[i], atol=1e-6)


def test_the_worth_of_every_prefix_is_counted_over_views_and_images(run, trained, order, data):
    """Against the distances of the first m layers alone, image by image."""
    call = jax.jit(run.method.predict)
    total = len(order)
    seen = {rule: [] for rule in MOMENT_RULES}
    for view, branch in zip(run.view_names, run.branch_of_view, strict=True):
        for example in data.examples("ffdm", "validation"):
            image = views.make_view(view).numpy(example.image)[None, ..., None]
            said = call({"params": trained.params}, image)
            share = np.asarray(jax.nn.softmax(said.logits))[0, ..., 1]
            masks = [decision.decide(p, trained.point) for p in share]
            dsc = [metrics.pixel_scores(mask, example.mask)[2] for mask in masks]
            for rule in MOMENT_RULES:
                chosen = []
                for m in range(1, total + 1):
                    bank, spread, own = (
                        {layer: of[layer] for layer in order[:m]}
                        for of in (trained.bank.mean, trained.bank.spread, said.moments)
                    )
                    found = branches.distances(bank, own, rule, spread)
                    chosen.append(int(np.argmin(found[0])))
                seen[rule].append([(c == chosen[-1], c == branch, dsc[c]) for c in chosen])
    for rule, rows in seen.items():
        agreement, accuracy, dsc = np.mean(np.array(rows, float), axis=0).T
        early = trained.early[rule]
        np.testing.assert_allclose(early.agreement, agreement)
        np.testing.assert_allclose(early.view_accuracy, accuracy)
        np.testing.assert_allclose(early.dsc, dsc, atol=1e-6)
        assert early.agreement.shape == (total,) and early.agreement[-1] == 1
        first = min(m for m in range(1, total + 1) if agreement[m - 1] >= 0.99)
        assert int(early.norms) == first and early.at == first - 1


def test_the_image_rule_needs_no_norm(trained):
    early = trained.early["image"]
    assert int(early.norms) == 0 and early.at == 0
    assert early.agreement.tolist() == [1] and early.view_accuracy.shape == (1,)


@pytest.mark.parametrize(
    ("agrees", "norms"),
    [((0, 198, 200), 2), ((200, 200, 200), 1), ((197, 197, 200), 3), ((199, 0, 200), 1)],
)
def test_the_shortest_prefix_that_agrees_in_99_percent(agrees, norms):
    rows = np.zeros((200, 3, 3))
    for m, count in enumerate(agrees):
        rows[:count, m, 0] = 1
    rows[:50, 1, 1], rows[..., 2] = 1, 0.25
    early = selection._early(rows, "cosine")
    assert int(early.norms) == norms
    np.testing.assert_allclose(early.agreement, np.array(agrees) / 200)
    np.testing.assert_allclose(early.view_accuracy, [0, 0.25, 0])
    np.testing.assert_allclose(early.dsc, [0.25] * 3)
