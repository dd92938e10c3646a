"""What MLN-net keeps for answering, from one exact pass over the source's training images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from mln_flax.data.images import Images, chunks
from mln_flax.methods.core import point_tree
from mln_flax.methods.mln import branches, image_rules, recorded
from mln_flax.methods.mln.image_features import ImageFeatures, foreground_mean, image_features
from mln_flax.methods.mln.sums import Sums
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.parallel import pad_rows
from mln_flax.views import intensity
from mln_flax.views.jitter import jittered

OTHER_MACHINES = 0.8  # strength of the jitter by which polarity learns of other machines


class ViewMap(NamedTuple):
    """The views of a run and the branch of each."""

    names: tuple[str, ...]
    branch: tuple[int, ...]

    @property
    def num_branches(self) -> int:
        """The number k of branches."""
        return max(self.branch) + 1

    def functions(self) -> list[Callable[[Any], Any]]:
        """Every view of images [..., H, W] in numpy."""
        return [intensity.make_view(name).numpy for name in self.names]

    def inverted_branches(self) -> tuple[bool, ...]:
        """Whether each branch is of inverted views alone."""
        pairs = list(zip(self.inverted(), self.branch, strict=True))
        return tuple(
            all(inverted for inverted, own in pairs if own == b) for b in range(self.num_branches)
        )

    def inverted(self) -> list[bool]:
        """Whether each view turns dark and bright around."""
        return [intensity.is_inverted(name) for name in self.names]

    def sides(self) -> tuple[bool | None, ...]:
        """Of each branch: whether its views are inverted; None where some are."""
        of_view = list(zip(self.branch, self.inverted(), strict=True))
        sides = [{side for own, side in of_view if own == b} for b in range(self.num_branches)]
        return tuple(side.pop() if len(side) == 1 else None for side in sides)


class Early(NamedTuple):
    """What a rule's choice from the network's first norms is worth on source validation.

    Of M numbers the i-th belongs to the first i + 1 norms, the last to all of them: the full
    choice. Rules that look at the image alone need no norm and have one number each.
    """

    norms: Any  # how many of the first choose as all do, the fewest; 0 where none is needed
    agreement: Any  # float64 [M]: the share of images for which they choose as all norms do
    view_accuracy: Any  # float64 [M]
    dsc: Any  # float64 [M]

    @property
    def at(self) -> int:
        """The place of the early choice among the M."""
        return max(int(self.norms), 1) - 1


class Weighted(NamedTuple):
    """What is marked in answers of several branches, and their DSC on source validation."""

    point: OperatingPoint = OperatingPoint()
    dsc: Any = 0.0


class Fitted(NamedTuple):
    """All that answering needs."""

    params: Any
    # Per branch and channel, over positions and images: exact, but where the network's norms are
    # made of them ("batch"): there it has the running ones with which it was validated.
    domain_stats: Any
    bank: branches.Bank
    point: OperatingPoint
    early: dict[str, Early]  # by rule; measured with the rest of it
    weighted: Weighted = Weighted()  # likewise
    # Likewise: an image whose numbers are farther from those of every view is unlike the source
    # (squared Mahalanobis distance). None where it was not measured.
    far: Any = None
    # Likewise: what else answers with an operating point of its own, by its name in the records.
    mixtures: dict[str, Weighted] = {}  # noqa: RUF012
    grays: Any = None  # see `matching.source_grays`; None in older models

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return {"params": self.params, "domain_stats": self.domain_stats}


def collect(
    views: ViewMap,
    variables: dict[str, Any],
    images: Images,
    forward: Callable[..., Any],
    point: OperatingPoint,
    chunk: int,
    keeps_running: bool = False,
) -> Fitted:
    """What is kept of all views of all training images; `early` is empty.

    Args:
      views: of the run.
      variables: the network's trained parameters and running statistics.
      images: the source's training images, not augmented; each is read once.
      forward: (variables, image [B, H, W, 1], branch [B]) -> (probability, moments).
      point: what counts as a calcification, chosen on source validation.
      chunk: images of a view that go through the network at once.
      keeps_running: the network's norms are made of the running statistics: with others than
        those it was validated with it would be another network.
    """
    gathered = [Gathered() for _ in views.names]
    functions, rng, jittered_polarity = views.functions(), np.random.default_rng(0), []
    for rows, count in chunks(images.total, chunk):
        image = images.stack(rows)[0]
        for seen, view, branch in zip(gathered, functions, views.branch, strict=True):
            shown = view(image)
            batch = pad_rows(shown[..., None], chunk)  # full ones: one length, one compilation
            _, moments = forward(variables, batch, np.full(chunk, branch, np.int32))
            seen.add(*jax.tree.map(lambda x, n=count: x[:n], (moments, *_numbers(batch[..., 0]))))
        other = np.stack([jittered(single, rng, OTHER_MACHINES) for single in image])
        jittered_polarity.append(_numbers(pad_rows(other, chunk))[0].polarity[:count])
    moments = [_of_branch(gathered, views.branch, b) for b in range(views.num_branches)]
    return Fitted(
        params=variables["params"],
        domain_stats=variables["domain_stats"] if keeps_running else _pooled(moments),
        bank=branches.Bank(
            mean=_over_branches(moments, Sums.mean),
            spread=_over_branches(moments, Sums.std),
            image=_image_bank(gathered, views, jittered_polarity),
        ),
        point=point,
        early={},
    )


def _numbers(image: np.ndarray) -> tuple[ImageFeatures, np.ndarray]:
    """The numbers of images [B, H, W] and the means of their foreground, float64."""
    out = jax.device_get(_compiled_numbers(image))
    return jax.tree.map(lambda x: x.astype(np.float64), out)


_compiled_numbers = jax.jit(lambda image: (image_features(image), foreground_mean(image)))


class Gathered:
    """What is seen of the training images through one view, some images after the others."""

    def __init__(self) -> None:
        self.moments: Any = None  # layer -> (Sums, Sums)
        self.numbers: list[np.ndarray] = []  # [n, view numbers] each
        self.polarity: list[np.ndarray] = []  # [n, polarity numbers] each
        self.gray: list[np.ndarray] = []  # [n] each: means of the foreground

    def add(self, moments: Any, features: ImageFeatures, gray: np.ndarray) -> None:
        """Adds images as the view shows them: the moments of their pass, and their own numbers."""
        sums = jax.tree.map(Sums.of, moments)
        self.moments = sums if self.moments is None else _each(Sums.plus, self.moments, sums)
        self.numbers.append(features.view)
        self.polarity.append(features.polarity)
        self.gray.append(gray)


def _of_branch(gathered: Sequence[Gathered], branch_of_view: Sequence[int], branch: int) -> Any:
    """The moments' sums over all views of a branch."""
    total: Any = None
    for seen, own in zip(gathered, branch_of_view, strict=True):
        if own == branch:
            total = seen.moments if total is None else _each(Sums.plus, total, seen.moments)
    return total


def _image_bank(
    gathered: Sequence[Gathered], views: ViewMap, jittered_polarity: list[np.ndarray]
) -> image_rules.ImageBank:
    """What rules without a network keep of the source's training images in all views.

    Polarity is learned from the upright views, and from the images as other machines might show
    them (`jitter`, the same for every run): blurred or sharpened, their grays curved.
    """
    upright = [
        numbers
        for seen, is_inverted in zip(gathered, views.inverted(), strict=True)
        if not is_inverted
        for numbers in seen.polarity
    ]
    gray = [
        [
            values
            for seen, own in zip(gathered, views.branch, strict=True)
            if own == b
            for values in seen.gray
        ]
        for b in range(views.num_branches)
    ]
    return image_rules.ImageBank(
        gaussian=image_rules.fit_gaussian(
            np.stack([np.concatenate(seen.numbers) for seen in gathered])
        ),
        polarity=image_rules.fit_polarity(np.concatenate([*upright, *jittered_polarity])),
        foreground=np.array([np.concatenate(of_branch).mean() for of_branch in gray]),
    )


def _each(function: Any, *trees: Any) -> Any:
    """A function of every Sums in {layer: (mean, std)}."""
    return jax.tree.map(function, *trees, is_leaf=lambda node: isinstance(node, Sums))


def _over_branches(of_branch: list[Any], reduce: Any) -> Any:
    """Sums per branch -> float32 [k, C] per layer, for mean and deviation."""
    return _each(lambda *sums: np.stack([reduce(s) for s in sums]).astype(np.float32), *of_branch)


def _pooled(of_branch: list[Any]) -> Any:
    """Mean and deviation over positions and images together, as the collection domain_stats."""
    stats = {}
    for layer in of_branch[0]:
        pairs = [sums[layer] for sums in of_branch]
        mean = np.stack([mean.mean() for mean, _ in pairs])
        square = np.stack([mean.mean_square() + std.mean_square() for mean, std in pairs])
        std = np.sqrt(np.maximum(square - np.square(mean), 0))
        stats[layer] = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    return flax.traverse_util.unflatten_dict(stats, sep="/")


def to_tree(fitted: Fitted) -> dict[str, Any]:
    """Nested dicts of arrays, as a checkpoint can hold them."""
    bank = fitted.bank
    far = {} if fitted.far is None else {"far": np.float64(fitted.far)}
    grays = {} if fitted.grays is None else {"grays": fitted.grays}
    return (
        far
        | grays
        | {
            "params": fitted.params,
            "domain_stats": fitted.domain_stats,
            "mean": _nest(bank.mean),
            "spread": _nest(bank.spread),
            "image": bank.image._asdict() | {"gaussian": bank.image.gaussian._asdict()},
            "point": point_tree(fitted.point),
            "weighted": point_tree(fitted.weighted.point)
            | {"dsc": np.float64(fitted.weighted.dsc)},
            "mixtures": {
                name: point_tree(worth.point) | {"dsc": np.float64(worth.dsc)}
                for name, worth in fitted.mixtures.items()
            },
            "early": {
                rule: {name: np.asarray(v) for name, v in early._asdict().items()}
                for rule, early in fitted.early.items()
            },
        }
    )


def from_tree(tree: dict[str, Any]) -> Fitted:
    """What `to_tree` took apart."""
    gaussian = image_rules.Gaussian(**tree["image"]["gaussian"])
    image = image_rules.ImageBank(**tree["image"] | {"gaussian": gaussian})
    bank = branches.Bank(_flatten(tree["mean"]), _flatten(tree["spread"]), image)
    point, weighted = OperatingPoint(**tree["point"]), _weighted(tree["weighted"])
    measured = tree.get("mixtures", {})
    mixtures = {n: _weighted(measured[n]) for n in recorded.TOGETHER if n in measured}
    known = [rule for rule in branches.SELECTIONS if rule in tree["early"]]  # in their order
    early = {rule: Early(**tree["early"][rule]) for rule in known}
    params, domain_stats = jax.device_put((tree["params"], tree["domain_stats"]))
    far, grays = tree.get("far"), tree.get("grays")
    return Fitted(params, domain_stats, bank, point, early, weighted, far, mixtures, grays)


def _weighted(tree: dict[str, Any]) -> Weighted:
    point = {name: value for name, value in tree.items() if name != "dsc"}
    return Weighted(OperatingPoint(**point), tree["dsc"])


def _nest(moments: Any) -> Any:
    pairs = {layer: {"mean": m, "std": s} for layer, (m, s) in moments.items()}
    return flax.traverse_util.unflatten_dict(pairs, sep="/")


def _flatten(nested: Any) -> Any:
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    layers = {name.rsplit("/", 1)[0] for name in flat}
    return {layer: (flat[f"{layer}/mean"], flat[f"{layer}/std"]) for layer in sorted(layers)}
