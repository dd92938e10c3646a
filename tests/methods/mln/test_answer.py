"""The branch chosen from the first norms, or from the image, and run alone."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mln_flax.engine import evaluate
from mln_flax.engine.build import build, load_data
from mln_flax.methods.mln import answer as selection
from mln_flax.methods.mln import branches
from mln_flax.methods.mln.bank import Early, Weighted
from mln_flax.methods.mln.image_features import foreground_mean
from mln_flax.metrics import decision, pixel
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.views import intensity

MOMENT_RULES = branches.BY_MOMENTS


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
    seen = [intensity.make_view(name).numpy for name in tiny.VIEWS]
    return np.stack([seen[i % 3](example.image) for i, example in enumerate(shown)])


@pytest.fixture(scope="module")
def whole(run, trained, images):
    return selection.predictor(run, trained)(images)


def with_rule(run, rule, early=True, answer="branch", temperature=4.0):
    method = dataclasses.replace(
        run.config.method, selection=rule, early=early, answer=answer, temperature=temperature
    )
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


@pytest.mark.parametrize("rule", branches.SELECTIONS)
def test_the_chosen_branch_alone_answers_as_among_all(run, trained, images, whole, rule):
    norms = 0 if rule in branches.BY_IMAGE else 3
    model = trained if rule in branches.BY_IMAGE else from_norms(trained, rule, norms)
    said = selection.selected(with_rule(run, rule), model)(images)
    np.testing.assert_array_equal(said.chosen, whole.chosen(rule, norms))
    assert said.chosen.dtype == np.int32 and said.probability.shape == images.shape
    for i, branch in enumerate(said.chosen):
        np.testing.assert_allclose(said.probability[i], whole.probability[i, branch], atol=1e-5)
        np.testing.assert_array_equal(
            said.mask(i), decision.decide(said.probability[i], trained.point)
        )
    if rule in branches.BY_IMAGE:
        assert len(set(said.chosen[:4].tolist())) > 1  # branches are mixed in one batch


def test_one_pass_in_all_branches_where_all_norms_choose(run, trained, images, whole, order):
    """They are asked for, or so many would be needed that an early choice costs more."""
    most = 1 + 2 * len(order) // 3  # of three branches
    for early, norms in ((False, 1), (True, most), (True, len(order))):
        model, asked = from_norms(trained, "cosine", norms), with_rule(run, "cosine", early)
        assert not selection.is_early(asked, model)
        answer = selection.selected(asked, model)
        said, apart = answer.at_once(images), answer.answer(images, answer.distances(images))
        np.testing.assert_array_equal(said.chosen, whole.chosen("cosine"))
        np.testing.assert_array_equal(said.chosen, apart.chosen)
        for i, branch in enumerate(said.chosen):
            np.testing.assert_array_equal(said.probability[i], whole.probability[i, branch])
            np.testing.assert_allclose(said.probability[i], apart.probability[i], atol=1e-5)


def test_what_is_chosen_before_the_end(run, trained, order):
    few = from_norms(trained, "cosine", 2 * len(order) // 3 - 1)
    assert selection.is_early(with_rule(run, "cosine"), few)
    for early in (True, False):  # by the image no norm is asked
        assert selection.is_early(with_rule(run, "polarity", early), trained)
    unmeasured = trained._replace(early={})
    assert not selection.is_early(with_rule(run, "cosine"), unmeasured)


def test_an_answer_depends_on_no_company(run, trained, images):
    answer = selection.selected(run, trained)
    together = answer(images)
    for i in (0, 5):
        alone = answer(images[[i]])
        assert alone.chosen[0] == together.chosen[i]
        np.testing.assert_allclose(alone.probability[0], together.probability[i], atol=1e-6)


def assert_same_answer(said, probability, point, masks):
    """The probabilities; and the masks where no pixel stands on the threshold."""
    np.testing.assert_allclose(said.probability, probability, atol=1e-5)
    clear = [i for i, p in enumerate(probability) if np.abs(p - point.threshold).min() > 2e-5]
    assert len(clear) > 2 and len({int(masks[i].sum()) for i in clear}) > 2
    for i in clear:
        np.testing.assert_array_equal(said.mask(i), masks[i])


@pytest.mark.parametrize("early", [True, False])
def test_the_weighted_answer_is_that_of_all_branches(run, trained, images, early):
    point = OperatingPoint(0.55, 3)
    model = trained._replace(weighted=Weighted(point))
    asked = with_rule(run, "polarity", early, "weighted", temperature=60.0)
    said, full = selection.selected(asked, model)(images), selection.predictor(asked, model)(images)
    shares = branches.weights(full.distances["polarity"], 60.0)
    np.testing.assert_array_equal(full.shares, shares)
    counts = np.count_nonzero(shares, axis=1)
    assert counts.max() > 1 and counts.min() < 3  # some are mixed, and some branches left out
    mean = np.einsum("nk,nkhw->nhw", shares, full.probability)
    assert_same_answer(said, mean, point, [full.weighted(i) for i in range(len(images))])
    assert said.point == point and said.chosen.tolist() == full.chosen("polarity").tolist()
    for i, p in enumerate(mean):
        np.testing.assert_allclose(full.mean(i), p, atol=1e-6)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("rule", ["cosine", "polarity"])
def test_the_union_is_that_of_all_branches(run, trained, images, whole, rule, early):
    point = OperatingPoint(0.7, 2)
    model = trained._replace(point=point)
    if rule == "cosine":
        model = from_norms(model, rule, 3)
    asked = with_rule(run, rule, early, "union")
    said, full = selection.selected(asked, model)(images), selection.predictor(asked, model)(images)
    largest = full.probability.max(axis=1)
    assert_same_answer(said, largest, point, [full.union(i) for i in range(len(images))])
    for i, p in enumerate(largest):
        np.testing.assert_array_equal(full.union(i), decision.decide(p, point))
    norms = 3 if early and rule == "cosine" else 0
    assert said.chosen.tolist() == full.chosen(rule, norms).tolist()


def test_distances_and_answer_can_be_asked_apart(run, trained, images, whole):
    """One choice for several images: by the sum of their distances."""
    answer = selection.selected(with_rule(run, "image"), trained)
    distances = answer.distances(images)
    np.testing.assert_allclose(distances, whole.distances["image"], rtol=1e-9)
    own = answer(images)
    assert own.chosen.tolist() == distances.argmin(axis=1).tolist()
    common = answer.answer(images, np.tile(distances.sum(axis=0), (len(images), 1)))
    (branch,) = set(common.chosen.tolist())
    assert branch == distances.sum(axis=0).argmin() and len(set(own.chosen.tolist())) > 1
    np.testing.assert_allclose(common.probability, whole.probability[:, branch], atol=1e-5)


@pytest.mark.parametrize("rule", branches.WITH_FOREGROUND)
def test_the_plus_chooses_as_numpy_would(run, trained, images, whole, rule):
    """The paper's correctional mean: one more number in the mean of every layer."""
    moments = jax.device_get(jax.jit(run.method.predict)(trained.variables, images[..., None]))
    bank, expected = trained.bank, np.zeros((len(images), 3))
    for i, image in enumerate(images.astype(np.float64)):
        low, high = image.min(), image.max()
        dark = image <= low + 0.02 * (high - low)
        bright = image >= high - 0.02 * (high - low)
        gray = image[~(dark if dark.sum() >= bright.sum() else bright)].mean()
        for b in range(3):
            for layer, (mean, std) in moments.moments.items():
                own = np.r_[mean[i, b], gray], std[i, b]
                center = np.r_[bank.mean[layer][0][b], bank.image.foreground[b]]
                for u, v in zip(own, (center, bank.mean[layer][1][b]), strict=True):
                    if rule == "cosine+":
                        expected[i, b] += 1 - u @ v / np.sqrt((u @ u) * (v @ v))
                    else:
                        expected[i, b] += np.sqrt(((u - v) ** 2).sum())
    np.testing.assert_allclose(whole.distances[rule], expected, rtol=1e-3, atol=1e-5)
    gap = np.diff(np.sort(expected, axis=1)[:, :2])[:, 0]
    clear = gap > 1e-3 * expected.min(axis=1) + 2e-5
    assert clear.any()
    chosen = selection.selected(with_rule(run, rule, early=False), trained)(images).chosen
    np.testing.assert_array_equal(chosen[clear], expected.argmin(axis=1)[clear])
    without = whole.distances[branches.WITH_FOREGROUND[rule]]
    assert np.abs(without - whole.distances[rule]).max() > 1e-4


def test_the_weighted_answer_has_an_operating_point_of_its_own(run, trained, data):
    answer, scores = selection.predictor(run, trained), []
    for name in run.view_names:
        for example in data.examples("ffdm", "validation"):
            said = answer(intensity.make_view(name).numpy(example.image)[None])
            share = np.exp(-said.distances["polarity"][0] / run.config.method.temperature)
            share = np.where(share / share.sum() < 0.05, 0, share)
            mean = np.tensordot(share / share.sum(), said.probability[0], 1)
            masks = [decision.decide(mean, point) for point in decision.GRID]
            scores.append([pixel.pixel_scores(mask, example.mask)[2] for mask in masks])
    dsc = np.mean(scores, axis=0)
    assert len(scores) == 9 and float(trained.weighted.dsc) == pytest.approx(dsc.max())
    best = decision.GRID[int(np.argmax(dsc))]
    assert tuple(map(float, trained.weighted.point)) == tuple(map(float, best))


def test_the_worth_of_every_prefix_is_counted_over_views_and_images(run, trained, order, data):
    """Against the distances of the first m layers alone, image by image."""
    call = jax.jit(run.method.predict)
    total = len(order)
    seen = {rule: [] for rule in MOMENT_RULES}
    for view, branch in zip(run.view_names, run.branch_of_view, strict=True):
        for example in data.examples("ffdm", "validation"):
            image = intensity.make_view(view).numpy(example.image)[None, ..., None]
            said = call({"params": trained.params}, image)
            share = np.asarray(jax.nn.softmax(said.logits))[0, ..., 1]
            masks = [decision.decide(p, trained.point) for p in share]
            dsc = [pixel.pixel_scores(mask, example.mask)[2] for mask in masks]
            for rule in MOMENT_RULES:
                chosen = []
                for m in range(1, total + 1):
                    bank, spread, own = (
                        {layer: of[layer] for layer in order[:m]}
                        for of in (trained.bank.mean, trained.bank.spread, said.moments)
                    )
                    if rule in branches.WITH_FOREGROUND:
                        bank = branches.with_foreground(bank, trained.bank.image.foreground)
                        own = branches.with_foreground(own, foreground_mean(image[..., 0]))
                    metric = branches.WITH_FOREGROUND.get(rule, rule)
                    found = branches.distances(bank, own, metric, spread)
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


@pytest.mark.parametrize("rule", branches.BY_IMAGE)
def test_rules_of_the_image_need_no_norm(trained, rule):
    early = trained.early[rule]
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
