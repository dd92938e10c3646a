"""What MLN-net's answers are worth on source validation: all that a default may be chosen by."""

from typing import Any

import numpy as np

from mln_flax.data.images import Images, chunks
from mln_flax.methods.mln import branches
from mln_flax.methods.mln.answer import see, together
from mln_flax.methods.mln.bank import Early, Fitted, Weighted
from mln_flax.methods.mln.passes import Programs
from mln_flax.methods.mln.recorded import FITTED, MATCHED, WEIGHTED
from mln_flax.metrics import decision, pixel

AGREEMENT = 0.99  # of the choices from the first norms with those from all of them
NEAR = 0.99  # of the source's validation images, in all views, are no farther than `Fitted.far`


def measure(programs: Programs, fitted: Fitted, images: Images) -> Fitted:
    """What is kept, with what its answers are worth on source validation.

    Every rule by how many norms choose, answers of several branches at their best operating
    points, and how far an image may be from all views. All views of all images count alike. This,
    and nothing of a target, is what a default may be chosen by.
    """
    worth: dict[str, list[Any]] = {rule: [] for rule in branches.SELECTIONS}
    names = FITTED if fitted.grays is None else (*FITTED, MATCHED)
    on_grid: dict[str, list[list[float]]] = {name: [] for name in names}
    apart: list[np.ndarray] = []
    for view, branch in zip(programs.views.functions(), programs.views.branch, strict=True):
        for rows, count in chunks(images.total, programs.chunk):
            image, mask = images.stack(rows)
            shown = view(image)
            seen = see(programs, fitted, shown)
            dsc = np.array(
                [
                    [pixel.pixel_scores(decision.decide(p, fitted.point), m)[2] for p in of_image]
                    for of_image, m in zip(seen.probability, mask, strict=True)
                ]
            )
            apart.append(seen.compared.squared.min(axis=1))
            for rule, distances in seen.by_norms.items():
                chosen = branches.select(distances)  # [n, M]
                agrees = chosen == chosen[:, -1:]
                of_chosen = dsc[np.arange(count)[:, None], chosen]
                worth[rule].append(np.stack([agrees, chosen == branch, of_chosen], axis=-1))
            for name, probability in together(programs, fitted, seen, shown, names).items():
                on_grid[name] += [
                    decision.dsc_on_grid(p, m)
                    for p, m in zip(probability, mask.astype(bool), strict=True)
                ]
    early = {rule: _early(np.concatenate(rows), rule) for rule, rows in worth.items()}
    mixtures = {}
    for name, values in on_grid.items():
        point, of_point = decision.best(np.array(values))
        mixtures[name] = Weighted(point, of_point.mean())
    far = np.quantile(np.concatenate(apart).astype(np.float64), NEAR)
    weighted = mixtures.pop(WEIGHTED)
    return fitted._replace(early=early, weighted=weighted, far=far, mixtures=mixtures)


def _early(values: np.ndarray, rule: str) -> Early:
    """From [images, M, (agrees, right, DSC)]: the shortest prefix that agrees, and all means."""
    agreement, accuracy, dsc = values.mean(axis=0).T
    norms = 0 if rule in branches.BY_IMAGE else 1 + int(np.argmax(agreement >= AGREEMENT))
    return Early(np.int64(norms), agreement, accuracy, dsc)
