"""The shipped answer beside two others that are not in the paper, on phantoms.

MLN-net-P, as shipped, chooses the branch by polarity; MLN-net-W is the mean of its branches by
their probabilities. Grouped: one branch for the upright views and one for the inverted, chosen by
polarity too. What else was tried and taken out is in docs/experiments.md.

6 runs of four to six minutes each on two cores. On phantoms of version 1, commit 44fb670, seeds 0
to 2, 2 cores of AMD EPYC (Zen 4), unseen DSC: MLN-net-P 0.408 ± 0.009, MLN-net-W 0.395 ± 0.010,
grouped 0.392 ± 0.025.

python -m mln_flax.main --mode=experiment --config=configs/experiments/beyond.py --workdir=runs/more
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Three rows on one source; what helps must help over the three seeds."""
    return Experiment(
        title="Beyond the paper, on phantoms",
        base=load_file(str(Path(__file__).parents[1] / "phantom_swin.py")),
        rows=(
            Row("MLN-net-P", {}),
            Row("MLN-net-W", {"method.answer": "weighted"}),
            Row("grouped", {"method.branch_map": "grouped"}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="MLN-net-P",
    )
