"""What goes beyond the paper, each setting by itself beside the shipped configuration, on phantoms.

Jitter: random gray curves, sharpness and noise before the views. Grouped: one branch for the
upright views, one for the inverted. Location and scale: one more view as one more branch. All
choose a branch by polarity, and answer with it; the weighted answer is a row of table3.py.

12 runs of four to six minutes each on two cores. Measured: MLN-net-P on three seeds, unseen DSC
0.414 ± 0.010, and jitter on one (0.388); docs/experiments.md says what was taken out.

python -m mln_flax.main --mode=experiment --config=configs/experiments/beyond.py --workdir=runs/more
"""

from pathlib import Path

from mln_flax.experiment_config import Experiment, Row
from mln_flax.settings import load_file

SHIPPED = "identity,bezier(0.3),bezier(0.7),invert"


def get_experiment() -> Experiment:
    """Four rows on one source; what helps must help over the three seeds."""
    return Experiment(
        title="Beyond the paper, on phantoms",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
        rows=(
            Row("MLN-net-P", {}),
            Row("jitter", {"views.jitter": "0.6"}),
            Row("grouped", {"method.branch_map": "grouped"}),
            Row("location and scale", {"views.names": f"{SHIPPED},location_scale(0.6, 0.2)"}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="MLN-net-P",
    )
