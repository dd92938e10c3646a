"""One exact pass over the source's training images: statistics and bank of every branch."""

from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from mln_flax import parallel
from mln_flax.engine.build import Run
from mln_flax.engine.input_pipeline import Images, chunks
from mln_flax.methods.mln import branches, image_rules
from mln_flax.methods.mln.image_features import foreground_mean, image_features
from mln_flax.methods.mln.jitter import jittered
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.models import norm_kinds
from mln_flax.views import intensity

OTHER_MACHINES = 0.8  # strength of the jitter that stands for them where polarity is learned


class Early(NamedTuple):
    """What a rule's choice from the network's first norms is worth on source validation.

    Of M numbers the i-th belongs to the first i + 1 norms, the last to all of them: the full
    choice. Rules that look at the image alone need no norm and have one number each.
    """

    norms: Any  # so many choose as all do: the shortest that agrees; 0 where none is
    agreement: Any  # float64 [M]: the share of images for which they choose as all norms do
    view_accuracy: Any  # float64 [M]
    dsc: Any  # float64 [M]

    @property
    def at(self) -> int:
        """The place of the early choice among the M."""
        return max(int(self.norms), 1) - 1


class Weighted(NamedTuple):
    """What counts as a calcification in weighted answers, and their DSC on source validation."""

    point: OperatingPoint = OperatingPoint()
    dsc: Any = 0.0


class Trained(NamedTuple):
    """All that prediction needs."""

    params: Any
    # Per branch and channel, over positions and images: exact, but where the network's norms are
    # made of them ("batch"): there it has the running ones with which it was validated.
    domain_stats: Any
    bank: branches.Bank
    point: OperatingPoint
    early: dict[str, Early]  # by rule; measured with the rest of it
    weighted: Weighted = Weighted()  # likewise

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return {"params": self.params, "domain_stats": self.domain_stats}


def forward(run: Run, devices: Any = None) -> Any:
    """`call(variables, image [B, H, W, 1], branch [B])` -> (probability [B, H, W], moments)."""

    def rows(variables, image, branch):
        logits, out = run.model.apply(variables, image, branch, train=False)
        return jax.nn.softmax(logits)[..., 1], out["moments"]

    return parallel.parallel_map(rows, devices)


def collect(
    run: Run, variables: dict[str, Any], images: Images, call: Any, point: OperatingPoint
) -> Trained:
    """The trained model with its bank, from all views of all training images; `early` is empty.

    Args:
      run: the run.
      variables: its trained parameters and running statistics.
      images: the source's training images, not augmented.
      call: what `forward` made.
      point: what counts as a calcification, chosen on source validation.
    """
    moments: list[Any] = [None] * run.num_branches
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view = intensity.make_view(name).numpy
        for rows, count in chunks(images.total, run.config.evaluate.batch_size):
            image = view(images.stack(rows)[0])
            indices = np.full(count, branch, np.int32)
            _, new = call(variables, image[..., None], indices)
            sums = jax.tree.map(Sums.of, new)
            old = moments[branch]
            moments[branch] = sums if old is None else _each(Sums.plus, old, sums)
    # Other statistics than those it was validated with would be another network.
    reads_them = run.config.model.norm in norm_kinds.FROM_STATISTICS
    return Trained(
        params=variables["params"],
        domain_stats=variables["domain_stats"] if reads_them else _pooled(moments),
        bank=branches.Bank(
            mean=_over_branches(moments, Sums.mean),
            spread=_over_branches(moments, Sums.std),
            image=collect_images(run, images),
        ),
        point=point,
        early={},
    )


def collect_images(run: Run, images: Images) -> image_rules.ImageBank:
    """What rules without a network keep of the source's training images in all views.

    Polarity is learned from the upright views, and from the images as other machines might show
    them (`jitter`, the same for every run): blurred or sharpened, their grays curved.
    """
    rng = np.random.default_rng(0)
    numbers: list[np.ndarray] = []
    polarity: list[np.ndarray] = []
    gray: list[list[np.ndarray]] = [[] for _ in range(run.num_branches)]
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view, of_view = intensity.make_view(name).numpy, []
        for rows, _ in chunks(images.total, run.config.evaluate.batch_size):
            image = view(images.stack(rows)[0])
            seen = image_features(image)
            of_view.append(seen.view)
            gray[branch].append(foreground_mean(image))
            if not intensity.is_inverted(name):
                polarity.append(seen.polarity)
        numbers.append(np.concatenate(of_view))
    for rows, _ in chunks(images.total, run.config.evaluate.batch_size):
        other = [jittered(image, rng, OTHER_MACHINES) for image in images.stack(rows)[0]]
        polarity.append(image_features(np.stack(other)).polarity)
    return image_rules.ImageBank(
        gaussian=image_rules.fit_gaussian(np.stack(numbers)),
        polarity=image_rules.fit_polarity(np.concatenate(polarity)),
        foreground=np.array([np.concatenate(of_branch).mean() for of_branch in gray]),
    )


class Sums(NamedTuple):
    """What is left of [N, C] values of N images: enough for mean and deviation over them.

    Kept in place of the values, whose memory would grow with the data set.
    """

    images: int
    first: np.ndarray  # float64 [C]: sum
    second: np.ndarray  # float64 [C]: sum of squares

    @classmethod
    def of(cls, values: Any) -> "Sums":
        """The sums of values [N, C]."""
        exact = np.asarray(values, np.float64)
        return cls(len(exact), exact.sum(axis=0), np.square(exact).sum(axis=0))

    def plus(self, other: "Sums") -> "Sums":
        """The sums over the images of both."""
        return Sums(
            self.images + other.images, self.first + other.first, self.second + other.second
        )

    def mean(self) -> np.ndarray:
        """Mean over the images, [C]."""
        return self.first / self.images

    def mean_square(self) -> np.ndarray:
        """Mean of the squares over the images, [C]."""
        return self.second / self.images

    def std(self) -> np.ndarray:
        """Standard deviation over the images, [C]."""
        return np.sqrt(np.maximum(self.mean_square() - np.square(self.mean()), 0))


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


def to_tree(trained: Trained) -> dict[str, Any]:
    """Nested dicts of arrays, as a checkpoint can hold them."""
    bank = trained.bank
    return {
        "params": trained.params,
        "domain_stats": trained.domain_stats,
        "mean": _nest(bank.mean),
        "spread": _nest(bank.spread),
        "image": bank.image._asdict() | {"gaussian": bank.image.gaussian._asdict()},
        "point": {name: np.float64(v) for name, v in trained.point._asdict().items()},
        "weighted": {
            name: np.float64(v)
            for name, v in (
                *trained.weighted.point._asdict().items(),
                ("dsc", trained.weighted.dsc),
            )
        },
        "early": {
            rule: {name: np.asarray(v) for name, v in early._asdict().items()}
            for rule, early in trained.early.items()
        },
    }


def from_tree(tree: dict[str, Any]) -> Trained:
    """What `to_tree` took apart."""
    gaussian = image_rules.Gaussian(**tree["image"]["gaussian"])
    image = image_rules.ImageBank(**tree["image"] | {"gaussian": gaussian})
    bank = branches.Bank(_flatten(tree["mean"]), _flatten(tree["spread"]), image)
    point, of_weighted = OperatingPoint(**tree["point"]), dict(tree["weighted"])
    weighted = Weighted(dsc=of_weighted.pop("dsc"), point=OperatingPoint(**of_weighted))
    known = [rule for rule in branches.SELECTIONS if rule in tree["early"]]  # in their order
    early = {rule: Early(**tree["early"][rule]) for rule in known}
    return Trained(tree["params"], tree["domain_stats"], bank, point, early, weighted)


def _nest(moments: Any) -> Any:
    pairs = {layer: {"mean": m, "std": s} for layer, (m, s) in moments.items()}
    return flax.traverse_util.unflatten_dict(pairs, sep="/")


def _flatten(nested: Any) -> Any:
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    layers = {name.rsplit("/", 1)[0] for name in flat}
    return {layer: (flat[f"{layer}/mean"], flat[f"{layer}/std"]) for layer in sorted(layers)}
