"""Which views share a branch, and which statistics a branch keeps, on phantoms.

`per_view`: each view has its branch. `grouped`: upright views and inverted ones. `shared`: one
branch for all. Statistics per channel, or of a whole layer (Eq. 10-11 of the paper); they decide
the choice of a branch alone, so with one branch they decide nothing.

15 runs of four to five minutes each on two cores. On phantoms of version 1, commit 44fb670, seeds 0
to 2, 2 cores of AMD EPYC (Zen 4), unseen DSC: per_view 0.362 ± 0.009 (channel) and 0.356 ± 0.002
(layer), grouped 0.339 ± 0.026 (channel), shared 0.343 ± 0.015. docs/experiments.md has all rows.

python -m mln_flax.main --mode=experiment --config=configs/experiments/maps.py --workdir=runs/maps
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Five rows; the cosine distance of the paper chooses."""
    cosine = {"method.selection": "cosine"}
    return Experiment(
        title="Branch maps and statistics on phantoms",
        base=load_file(str(Path(__file__).parents[1] / "phantom_swin.py")),
        rows=(
            *(
                Row(
                    f"{branch_map} {statistics}",
                    {"method.branch_map": branch_map, "model.statistics": statistics} | cosine,
                )
                for branch_map in ("per_view", "grouped")
                for statistics in ("channel", "layer")
            ),
            Row("shared", {"method.branch_map": "shared"}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="shared",
    )
