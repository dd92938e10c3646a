"""Which views share a branch, and which statistics a branch keeps, on phantoms.

`per_view`: each view has its branch. `grouped`: upright views and inverted ones. `shared`: one
branch for all. Statistics per channel, or of a whole layer (Eq. 10-11 of the paper); they decide
the choice of a branch alone, so with one branch they decide nothing.

At most 5 minutes a run on two cores are meant, 15 runs. Not measured.

python -m mln_flax.main --mode=experiment --config=configs/experiments/maps.py --workdir=runs/maps
"""

from pathlib import Path

from mln_flax.experiment_config import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Five rows; the cosine distance of the paper chooses."""
    cosine = {"method.selection": "cosine"}
    return Experiment(
        title="Branch maps and statistics on phantoms",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
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
