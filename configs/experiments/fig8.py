"""How many curve pairs, at equal steps or drawn, on phantoms (the paper's Fig. 8).

N pairs give N curves beside the original and its inversion, each with a branch of its own, so more
pairs mean a larger batch. The last of the curves at equal steps is the straight line: it repeats
the original, and a warning says so. Drawn curves are other ones for every seed.

18 runs of three to six minutes each on two cores. On phantoms of version 1, measured with seed 0
alone, at commit 44fb670 on 2 cores of AMD EPYC (Zen 4): unseen DSC 0.27 to 0.36, in no order that
another seed would keep.

python -m mln_flax.main --mode=experiment --config=configs/experiments/fig8.py --workdir=runs/fig8
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Six rows: one, two and three pairs by each strategy; the cosine distance chooses."""
    return Experiment(
        title="Curve pairs and their strategy on phantoms (Fig. 8 of the paper)",
        base=load_file(str(Path(__file__).parents[1] / "phantom_swin.py")),
        rows=tuple(
            Row(
                f"{strategy} {pairs}",
                {
                    "views.strategy": strategy,
                    "views.pairs": str(pairs),
                    "method.selection": "cosine",
                },
            )
            for strategy in ("mean", "random")
            for pairs in (1, 2, 3)
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="mean 2",
        figure="pairs",
    )
