"""One exact pass over the source's training images: statistics and bank of every branch."""

from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from mln_flax import branches, parallel, views
from mln_flax.build import Run
from mln_flax.decision import OperatingPoint
from mln_flax.input_pipeline import Arrays, chunks


class Trained(NamedTuple):
    """All that prediction needs."""

    params: Any
    domain_stats: Any  # exact: per branch and channel, over positions and images
    bank: branches.Bank
    point: OperatingPoint


def forward(run: Run, devices: Any = None) -> Any:
    """`call(variables, image [B, H, W, 1], branch [B])` -> (probability [B, H, W], moments)."""

    def rows(variables, image, branch):
        logits, out = run.model.apply({"params": variables["params"]}, image, branch, train=False)
        return jax.nn.softmax(logits)[..., 1], out["moments"]

    return parallel.parallel_map(rows, devices)


def collect(run: Run, params: Any, arrays: Arrays, call: Any, point: OperatingPoint) -> Trained:
    """The trained model with its bank, from all views of all training images.

    Args:
      run: the run.
      params: its trained parameters.
      arrays: the source's training images, not augmented.
      call: what `forward` made.
      point: what counts as a calcification, chosen on source validation.
    """
    moments: list[list[Any]] = [[] for _ in range(run.num_branches)]
    features = []
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        images = views.make_view(name).numpy(arrays.image)
        features.append(branches.image_features(images))
        for rows, count in chunks(len(images), run.config.evaluate.batch_size):
            indices = np.full(count, branch, np.int32)
            _, new = call({"params": params}, images[rows, ..., None], indices)
            moments[branch].append(new)
    of_branch = [jax.tree.map(lambda *x: np.concatenate(x), *parts) for parts in moments]
    return Trained(
        params=params,
        domain_stats=_pooled(of_branch),
        bank=branches.Bank(
            mean=_over_images(of_branch, np.mean),
            spread=_over_images(of_branch, np.std),
            image=branches.fit_gaussian(np.stack(features)),
        ),
        point=point,
    )


def _over_images(of_branch: list[Any], reduce: Any) -> Any:
    """{layer: (mean [N, C], std [N, C])} per branch -> one with [k, C] each."""
    return jax.tree.map(lambda *x: np.stack([reduce(v, axis=0) for v in x]), *of_branch)


def _pooled(of_branch: list[Any]) -> Any:
    """Mean and deviation over positions and images together, as the collection domain_stats."""
    stats = {}
    for layer in of_branch[0]:
        means, stds = zip(*(moments[layer] for moments in of_branch), strict=True)
        mean = np.stack([m.mean(axis=0, dtype=np.float64) for m in means])
        within = np.stack([np.square(s).mean(axis=0, dtype=np.float64) for s in stds])
        between = np.stack([m.var(axis=0, dtype=np.float64) for m in means])
        std = np.sqrt(within + between)
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
        "image": bank.image._asdict(),
        "point": {name: np.float64(v) for name, v in trained.point._asdict().items()},
    }


def from_tree(tree: dict[str, Any]) -> Trained:
    """What `to_tree` took apart."""
    bank = branches.Bank(
        _flatten(tree["mean"]), _flatten(tree["spread"]), branches.Gaussian(**tree["image"])
    )
    return Trained(tree["params"], tree["domain_stats"], bank, OperatingPoint(**tree["point"]))


def _nest(moments: Any) -> Any:
    pairs = {layer: {"mean": m, "std": s} for layer, (m, s) in moments.items()}
    return flax.traverse_util.unflatten_dict(pairs, sep="/")


def _flatten(nested: Any) -> Any:
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    layers = {name.rsplit("/", 1)[0] for name in flat}
    return {layer: (flat[f"{layer}/mean"], flat[f"{layer}/std"]) for layer in sorted(layers)}
