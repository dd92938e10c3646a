"""The branch chosen from the first norms, or from the image, and run alone."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
import tiny
from numpy_features import foreground_mean

from mln_flax import parallel
from mln_flax.data.images import images_of
from mln_flax.engine.build import network
from mln_flax.engine.load_data import load_data
from mln_flax.methods.mln import answer, bank, branches, passes, recorded, worth
from mln_flax.methods.mln.bank import Early, ViewMap, Weighted
from mln_flax.metrics import decision, pixel
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.types import UserError
from mln_flax.views import intensity

MOMENT_RULES = branches.BY_MOMENTS
K = len(tiny.VIEWS)  # each view has its branch
CHUNK = 4


@pytest.fixture(scope="module")
def config():
    return tiny.config()


@pytest.fixture(scope="module")
def data(config):
    return load_data(config)


@pytest.fixture(scope="module")
def model(config):
    return network(config, K)


@pytest.fixture(scope="module")
def programs(config, model):
    """Compiled once for all tests."""
    views = ViewMap(tiny.VIEWS, tuple(range(K)))
    return passes.programs(model, config.method, views, tiny.VIEWS, config.data.size, CHUNK)


@pytest.fixture(scope="module")
def fitted(model, programs, data):
    """What is kept of a network with random parameters, so that its branches differ."""
    image, branch = np.zeros((1, 32, 32, 1), np.float32), np.zeros(1, np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, branch)["params"]
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        is_scale = path[-1].key == "scale"
        return (is_scale + rng.normal(scale=0.3, size=leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(drawn, shapes)
    variables = {"params": params, "domain_stats": {}}  # no norm of this network reads them
    training, validation = (images_of(data.part("ffdm", name)) for name in ("train", "validation"))
    point = OperatingPoint(0.5, 2)
    collected = bank.collect(
        programs.views, variables, training, programs.with_moments, point, CHUNK
    )
    return worth.measure(programs, collected, validation)


@pytest.fixture(scope="module")
def order(programs):
    return programs.order()


@pytest.fixture(scope="module")
def images(data):
    """Seven images through different views: a full batch of four and a padded one."""
    shown = [*data.examples("ffdm", "test"), *data.examples("film", "test")][:7]
    seen = [intensity.make_view(name).numpy for name in tiny.VIEWS]
    return np.stack([seen[i % 3](example.image) for i, example in enumerate(shown)])


@pytest.fixture(scope="module")
def whole(programs, fitted, images):
    """The images in all branches."""
    return answer.see(programs, fitted, images)


def with_rule(programs, rule, early=True, combined="branch", temperature=4.0):
    """The programs with other settings of how they answer."""
    settings = dataclasses.replace(
        programs.settings, selection=rule, early=early, answer=combined, temperature=temperature
    )
    return programs._replace(settings=settings)


def from_norms(fitted, rule, norms):
    """What is kept, had source validation asked for so many norms."""
    total = len(fitted.bank.mean)
    early = Early(np.int64(norms), *(np.ones(total) for _ in range(3)))
    return fitted._replace(early=fitted.early | {rule: early})


def nearest(seen, rule, norms=0):
    """The branch of each image by the first norms, or by all of them."""
    return branches.select(seen.by_norms[rule][:, norms - 1]).tolist()


def branches_of(answers):
    """The branch that each image's facts name."""
    return [tiny.VIEWS.index(fact["branch"]) for fact in answers.facts]


def probability_of(answers):
    """The one map of an answer, float32 [N, H, W]."""
    (probability,) = answers.maps.values()
    assert probability.dtype == np.float32
    assert list(answers.maps) == list(answers.points) == list(dict.fromkeys(answers.chosen))
    return probability


def doubled(params, path):
    """The parameters with twice the scale of the norm at a path."""
    if not path:
        return params | {"scale": 2 * params["scale"]}
    return params | {path[0]: doubled(params[path[0]], path[1:])}


def test_each_norm_moves_the_moments_of_the_next_and_of_none_before(model, fitted, order, images):
    assert sorted(order) == sorted(fitted.bank.mean)
    batch = images[:1, ..., None]

    @jax.jit
    def moments(params):
        branch = np.zeros(1, np.int32)
        return model.apply({"params": params}, batch, branch, train=False)[1]["moments"]

    before = moments(fitted.params)
    for place, layer in enumerate(order):
        after = moments(doubled(fitted.params, layer.split("/")))
        moved = [
            other
            for other in order
            if any(
                not np.array_equal(a, b) for a, b in zip(before[other], after[other], strict=True)
            )
        ]
        assert moved[:1] == list(order[place + 1 : place + 2]), layer


def test_what_the_first_norms_do_not_need_is_not_compiled(model, fitted, order, images):
    variables, batch = fitted.variables, images[:4, ..., None]

    def compiled(layers):
        function = jax.jit(partial(passes.first_moments, model, layers))
        return function.lower(variables, batch).compile()

    shortest, few, every = (compiled(order[:m]) for m in (1, 3, len(order)))
    flops = [program.cost_analysis()["flops"] for program in (shortest, few, every)]
    assert flops[0] < flops[1] / 2 and flops[1] < flops[2] / 2
    found, wanted = few(variables, batch), every(variables, batch)
    assert set(found) == set(order[:3])
    for layer in found:
        for a, b in zip(found[layer], wanted[layer], strict=True):
            assert a.shape == (4, K, a.shape[-1])
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", branches.SELECTIONS)
def test_the_chosen_branch_alone_answers_as_among_all(programs, fitted, images, whole, rule):
    norms = 0 if rule in branches.BY_IMAGE else 3
    model = fitted if rule in branches.BY_IMAGE else from_norms(fitted, rule, norms)
    answers = answer.answer(with_rule(programs, rule), model, images)
    probability, chosen = probability_of(answers), branches_of(answers)
    assert chosen == nearest(whole, rule, norms) and probability.shape == images.shape
    for i, branch in enumerate(chosen):
        np.testing.assert_allclose(probability[i], whole.probability[i, branch], atol=1e-5)
        np.testing.assert_array_equal(
            answers.mask(i), decision.decide(probability[i], fitted.point)
        )
        assert answers.facts[i]["early"] and answers.facts[i]["answer"] == rule
    if rule in branches.BY_IMAGE:
        assert len(set(chosen[:CHUNK])) > 1  # branches are mixed in one batch


def test_one_pass_in_all_branches_where_all_norms_choose(programs, fitted, images, whole, order):
    """They are asked for, or so many would be needed that an early choice costs more."""
    most = 1 + 2 * len(order) // 3  # of three branches
    for early, norms in ((False, 1), (True, most), (True, len(order))):
        model, asked = from_norms(fitted, "cosine", norms), with_rule(programs, "cosine", early)
        assert not answer.is_early(asked, model)
        answers = answer.answer(asked, model, images)
        apart = answer.answer(asked, model, images, answer.look(asked, model, images))
        chosen = branches_of(answers)
        assert chosen == branches_of(apart) == nearest(whole, "cosine")
        for i, branch in enumerate(chosen):
            assert not answers.facts[i]["early"]
            np.testing.assert_array_equal(probability_of(answers)[i], whole.probability[i, branch])
        np.testing.assert_allclose(probability_of(answers), probability_of(apart), atol=1e-5)


def test_what_is_chosen_before_the_end(programs, fitted, order):
    few = from_norms(fitted, "cosine", 2 * len(order) // 3 - 1)
    assert answer.is_early(with_rule(programs, "cosine"), few)
    for early in (True, False):  # by the image no norm is asked
        assert answer.is_early(with_rule(programs, "polarity", early), fitted)
    unmeasured = fitted._replace(early={})
    assert not answer.is_early(with_rule(programs, "cosine"), unmeasured)


def test_an_answer_depends_on_no_company(programs, fitted, images):
    together = answer.answer(programs, fitted, images)
    for i in (0, 5):
        alone = answer.answer(programs, fitted, images[[i]])
        assert alone.facts[0] == together.facts[i]
        np.testing.assert_allclose(probability_of(alone)[0], probability_of(together)[i], atol=1e-6)


def assert_same_answer(answers, full, probability, point):
    """The probabilities; and the masks where no pixel stands on the threshold."""
    (name,) = set(full.chosen)
    np.testing.assert_allclose(probability_of(answers), probability, atol=1e-5)
    np.testing.assert_allclose(full.maps[name], probability, atol=1e-6)
    assert full.points[name] == answers.points[answers.chosen[0]] == point
    clear = [i for i, p in enumerate(probability) if np.abs(p - point.threshold).min() > 2e-5]
    assert len(clear) > 2 and len({int(answers.mask(i).sum()) for i in clear}) > 2
    for i in clear:
        np.testing.assert_array_equal(answers.mask(i), full.mask(i))
        np.testing.assert_array_equal(full.mask(i), decision.decide(probability[i], point))


@pytest.mark.parametrize("early", [True, False])
def test_the_weighted_answer_is_that_of_all_branches(programs, fitted, images, whole, early):
    point = OperatingPoint(0.55, 3)
    model = fitted._replace(weighted=Weighted(point))
    asked = with_rule(programs, "polarity", early, "weighted", temperature=60.0)
    answers, full = answer.answer(asked, model, images), answer.answer_all(asked, model, images)
    shares = branches.weights(whole.by_norms["polarity"][:, -1], 60.0)
    counts = np.count_nonzero(shares, axis=1)
    assert counts.max() > 1 and counts.min() < 3  # some are mixed, and some branches left out
    mean = np.einsum("nk,nkhw->nhw", shares, whole.probability)
    assert set(full.chosen) == {"weighted"}
    assert_same_answer(answers, full, mean, point)
    assert branches_of(answers) == [fact["chosen"]["polarity"] for fact in full.facts]


@pytest.mark.parametrize("mixing", branches.MIXINGS)
def test_a_mixture_answers_in_one_pass(programs, fitted, images, whole, mixing):
    """By weights of one branch as that branch; by the settings' weights as the network by hand."""
    name, point = recorded.MIXED[mixing], OperatingPoint(0.55, 3)
    model = fitted._replace(mixtures=fitted.mixtures | {name: Weighted(point)})
    asked = with_rule(programs, "polarity", True, "mixed", temperature=60.0)
    settings = dataclasses.replace(asked.settings, mixing=mixing)
    asked = asked._replace(settings=settings)
    distances = whole.by_norms["polarity"][:, -1]
    weights = branches.mixing_weights(distances, mixing, 60.0, (False, False, True))
    alone = jax.jit(partial(passes.in_branch, programs.model.clone(num_branches=1)))
    by_hand = [
        alone(
            {"params": jax.tree_util.tree_map_with_path(partial(mixed_rows, share), model.params)},
            image[None, :, :, None],
            np.zeros(1, np.int32),
        )
        for share, image in zip(weights, images, strict=True)
    ]
    answers, full = answer.answer(asked, model, images), answer.answer_all(asked, model, images)
    assert set(full.chosen) == {name}
    assert_same_answer(answers, full, np.concatenate(by_hand), point)
    assert np.count_nonzero(weights, axis=1).max() > 1
    shares = [list(fact["shares"].values()) for fact in answers.facts]
    np.testing.assert_allclose(shares, weights, rtol=1e-4, atol=1e-6)
    one_hot = np.eye(K, dtype=np.float32)[np.arange(7) % K]
    found = answer.mixed(programs, fitted, images, one_hot)
    wanted = whole.probability[np.arange(7), np.arange(7) % K]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    order = np.random.default_rng(0).permutation(7)
    again = answer.mixed(programs, fitted, images[order], weights[order])
    np.testing.assert_allclose(again, full.maps[name][order], atol=1e-6)


def mixed_rows(weights, path, leaf):
    """The rows of a norm mixed to one, [1, C]; other parameters as they are."""
    is_of_norm = path[-1].key in ("scale", "bias") and path[-2].key.startswith("norm")
    return weights[None] @ leaf if is_of_norm else leaf


def test_the_surest_branch_weighs_most(programs, fitted, images, whole):
    point = OperatingPoint(0.5, 3)
    model = fitted._replace(mixtures=fitted.mixtures | {"entropy": Weighted(point)})
    asked = with_rule(programs, "cosine", True, "entropy")
    answers, full = answer.answer(asked, model, images), answer.answer_all(asked, model, images)
    entropy = branches.balanced_entropy(whole.probability)
    weights = np.exp(-entropy / 0.1) / np.exp(-entropy / 0.1).sum(axis=1, keepdims=True)
    assert set(full.chosen) == {"entropy"} and not answers.facts[0]["early"]
    mean = np.einsum("nk,nkhw->nhw", weights, whole.probability)
    assert_same_answer(answers, full, mean, point)
    np.testing.assert_allclose(
        [list(fact["shares"].values()) for fact in answers.facts], weights, rtol=1e-3
    )
    common = np.ones((len(images), K), np.float32)  # by which all branches are as near
    given = answer.answer(asked, model, images, common)
    np.testing.assert_allclose(probability_of(given), mean, atol=1e-5)


@pytest.mark.parametrize("way", [{"answer": "mixed"}, {"answer": "entropy"}])
def test_a_model_without_an_operating_point_for_it_is_refused(programs, fitted, images, way):
    older = fitted._replace(mixtures={})
    asked = programs._replace(settings=dataclasses.replace(programs.settings, **way))
    with pytest.raises(UserError, match="fitted without it and has no operating point"):
        answer.answer(asked, older, images)
    maps = answer.answer_all(programs, older, images).maps
    assert list(maps) == [*tiny.VIEWS, "union", "weighted"]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("rule", ["cosine", "polarity"])
def test_the_union_is_that_of_all_branches(programs, fitted, images, whole, rule, early):
    point = OperatingPoint(0.7, 2)
    model = fitted._replace(point=point)
    if rule == "cosine":
        model = from_norms(model, rule, 3)
    asked = with_rule(programs, rule, early, "union")
    answers, full = answer.answer(asked, model, images), answer.answer_all(asked, model, images)
    assert set(full.chosen) == {"union"}
    assert_same_answer(answers, full, whole.probability.max(axis=1), point)
    assert branches_of(answers) == nearest(whole, rule, 0)  # all norms have run for it anyway


@pytest.mark.parametrize("rule", ["cosine", "polarity"])
def test_every_map_stands_beside_what_chose_between_them(programs, fitted, images, whole, rule):
    """What is measured of an image: all maps, and what each rule says by all norms and early."""
    model = fitted
    for by_moments in MOMENT_RULES:
        model = from_norms(model, by_moments, 1)
    full = answer.answer_all(with_rule(programs, rule), model, images)
    together = ["union", *recorded.FITTED]
    assert list(full.maps) == [*tiny.VIEWS, *together] == list(full.points)
    for branch, name in enumerate(tiny.VIEWS):
        np.testing.assert_array_equal(full.maps[name], whole.probability[:, branch])
        assert full.points[name] == full.points["union"] == fitted.point
    assert full.chosen == [tiny.VIEWS[branch] for branch in nearest(whole, rule)]
    for i, fact in enumerate(full.facts):
        assert fact["answer"] == fact["selection"] == rule
        assert fact["branches"] == list(tiny.VIEWS)
        for name in branches.SELECTIONS:
            np.testing.assert_array_equal(fact["distances"][name], whole.by_norms[name][i, -1])
            assert fact["chosen"][name] == nearest(whole, name)[i]
            norms = 0 if name in branches.BY_IMAGE else 1
            assert fact["chosen_early"][name] == nearest(whole, name, norms)[i]
        assert set(full.kept[i]) == set(MOMENT_RULES)
        np.testing.assert_array_equal(full.kept[i]["cosine"], whole.by_norms["cosine"][i])
    assert any(fact["chosen"] != fact["chosen_early"] for fact in full.facts)


def test_distances_and_answer_can_be_asked_apart(programs, fitted, images, whole):
    """One choice for several images: by the sum of their distances."""
    distances = answer.look(programs, fitted, images)
    own = answer.answer(programs, fitted, images, distances)
    assert branches_of(own) == distances.argmin(axis=1).tolist()
    summed = np.tile(distances.sum(axis=0), (len(images), 1))
    common = answer.answer(programs, fitted, images, summed)
    (branch,) = set(branches_of(common))
    assert branch == distances.sum(axis=0).argmin() and len(set(branches_of(own))) > 1
    np.testing.assert_allclose(probability_of(common), whole.probability[:, branch], atol=1e-5)


def in_all_branches(programs, fitted, image):
    """Probability and moments of at most a full batch of images [n, H, W]."""
    batch = parallel.pad_rows(image[..., None], CHUNK)
    return jax.tree.map(lambda x: x[: len(image)], programs.every(fitted.variables, batch))


@pytest.mark.parametrize("rule", branches.WITH_FOREGROUND)
def test_the_plus_chooses_as_numpy_would(programs, fitted, images, whole, rule):
    """The paper's correctional mean: one more number in the mean of every layer."""
    bank, expected = fitted.bank, np.zeros((len(images), K))
    for i, image in enumerate(images):
        _, moments = in_all_branches(programs, fitted, image[None])
        image = image.astype(np.float64)
        low, high = image.min(), image.max()
        dark = image <= low + 0.02 * (high - low)
        bright = image >= high - 0.02 * (high - low)
        gray = image[~(dark if dark.sum() >= bright.sum() else bright)].mean()
        for b in range(K):
            for layer, (mean, std) in moments.items():
                own = np.r_[mean[0, b], gray], std[0, b]
                center = np.r_[bank.mean[layer][0][b], bank.image.foreground[b]]
                for u, v in zip(own, (center, bank.mean[layer][1][b]), strict=True):
                    if rule == "cosine+":
                        expected[i, b] += 1 - u @ v / np.sqrt((u @ u) * (v @ v))
                    else:
                        expected[i, b] += np.sqrt(((u - v) ** 2).sum())
    found = whole.by_norms[rule][:, -1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    gap = np.diff(np.sort(expected, axis=1)[:, :2])[:, 0]
    clear = gap > 1e-3 * expected.min(axis=1) + 2e-5
    assert clear.any()
    answers = answer.answer(with_rule(programs, rule, early=False), fitted, images)
    chosen = np.array(branches_of(answers))
    np.testing.assert_array_equal(chosen[clear], expected.argmin(axis=1)[clear])
    without = whole.by_norms[branches.WITH_FOREGROUND[rule]][:, -1]
    assert np.abs(without - found).max() > 1e-4


def test_the_weighted_answer_has_an_operating_point_of_its_own(programs, fitted, data):
    scores = []
    for name in tiny.VIEWS:
        for example in data.examples("ffdm", "validation"):
            seen = answer.see(
                programs, fitted, intensity.make_view(name).numpy(example.image)[None]
            )
            share = np.exp(-seen.by_norms["polarity"][0, -1] / programs.settings.temperature)
            share = np.where(share / share.sum() < 0.05, 0, share)
            mean = np.tensordot(share / share.sum(), seen.probability[0], 1)
            masks = [decision.decide(mean, point) for point in decision.GRID]
            scores.append([pixel.pixel_scores(mask, example.mask)[2] for mask in masks])
    dsc = np.mean(scores, axis=0)
    assert len(scores) == 9 and float(fitted.weighted.dsc) == pytest.approx(dsc.max())
    best = decision.GRID[int(np.argmax(dsc))]
    assert tuple(map(float, fitted.weighted.point)) == tuple(map(float, best))


def test_the_worth_of_every_prefix_is_counted_over_views_and_images(programs, fitted, order, data):
    """Against the distances of the first m layers alone."""
    total, examples = len(order), data.examples("ffdm", "validation")
    seen, moments, dsc = [], [], []
    for view in tiny.VIEWS:
        image = np.stack([intensity.make_view(view).numpy(example.image) for example in examples])
        probability, of_view = in_all_branches(programs, fitted, image)
        seen.append(image)
        moments.append(of_view)
        dsc += [
            [pixel.pixel_scores(decision.decide(p, fitted.point), e.mask)[2] for p in of_image]
            for of_image, e in zip(probability, examples, strict=True)
        ]
    seen, moments = np.concatenate(seen), jax.tree.map(lambda *of: np.concatenate(of), *moments)
    own = np.repeat(np.arange(K), len(examples))[:, None]
    for rule in MOMENT_RULES:
        chosen = np.stack(
            [by_first_norms(fitted, rule, order[:m], moments, seen) for m in range(1, total + 1)],
            axis=1,
        )
        agreement = (chosen == chosen[:, -1:]).mean(axis=0)
        early = fitted.early[rule]
        np.testing.assert_allclose(early.agreement, agreement)
        np.testing.assert_allclose(early.view_accuracy, (chosen == own).mean(axis=0))
        of_chosen = np.take_along_axis(np.array(dsc), chosen, axis=1)
        np.testing.assert_allclose(early.dsc, of_chosen.mean(axis=0), atol=1e-6)
        assert early.agreement.shape == (total,) and early.agreement[-1] == 1
        first = min(m for m in range(1, total + 1) if agreement[m - 1] >= 0.99)
        assert int(early.norms) == first and early.at == first - 1


def by_first_norms(fitted, rule, layers, moments, image):
    """The nearest branch of each image where the network had these layers alone."""
    bank, spread, own = (
        {layer: of[layer] for layer in layers}
        for of in (fitted.bank.mean, fitted.bank.spread, moments)
    )
    if rule in branches.WITH_FOREGROUND:
        bank = branches.with_foreground(bank, fitted.bank.image.foreground)
        own = branches.with_foreground(own, foreground_mean(image))
    metric = branches.WITH_FOREGROUND.get(rule, rule)
    return np.argmin(branches.distances(bank, own, metric, spread), axis=1)


@pytest.mark.parametrize("rule", branches.BY_IMAGE)
def test_rules_of_the_image_need_no_norm(fitted, rule):
    early = fitted.early[rule]
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
    early = worth._early(rows, "cosine")
    assert int(early.norms) == norms
    np.testing.assert_allclose(early.agreement, np.array(agrees) / 200)
    np.testing.assert_allclose(early.view_accuracy, [0, 0.25, 0])
    np.testing.assert_allclose(early.dsc, [0.25] * 3)
