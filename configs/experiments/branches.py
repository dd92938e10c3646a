"""Do branches earn their keep? The network of the demo, its views in one branch or in one each.

`shared`: a plain network on all views. `nearest`, `weighted`, `mixed`, `by polarity`, `entropy` and
`matched` are answers of one training with a branch for each view: the nearest branch by polarity;
the mean of the branches' maps by their probabilities; one pass with scales and shifts mixed by
them; one with the mean of the branches of the right polarity; the mean by how sure each branch is;
the nearest branch on an image whose grays are moved to the source's. `normaug` trains branches
beside a shared one, which answers. `perturbed` and `equalized` are `shared` with noise on the
statistics of shallow channels in training, and with noise made alike at every gray at the input.

Not measured.

python -m mln_flax.main --mode=experiment --config=configs/experiments/branches.py --workdir=runs/b
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file

SHARED = {"method.name": "supervised"}
PER_VIEW = {"method.name": "mln", "method.branch_map": "per_view", "method.selection": "polarity"}
BY_PROBABILITY = {"method.temperature": "1"}


def get_experiment() -> Experiment:
    """Ten rows, five trainings for each seed."""
    return Experiment(
        title="Branches against one shared branch, on phantoms",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
        rows=(
            Row("shared", SHARED),
            Row("nearest", PER_VIEW | BY_PROBABILITY | {"method.answer": "branch"}),
            Row("weighted", PER_VIEW | BY_PROBABILITY | {"method.answer": "weighted"}),
            Row("mixed", PER_VIEW | BY_PROBABILITY | {"method.answer": "mixed"}),
            Row(
                "by polarity",
                PER_VIEW | BY_PROBABILITY | {"method.answer": "mixed", "method.mixing": "polarity"},
            ),
            Row("entropy", PER_VIEW | BY_PROBABILITY | {"method.answer": "entropy"}),
            Row(
                "matched",
                PER_VIEW | BY_PROBABILITY | {"method.answer": "branch", "method.matching": "true"},
            ),
            Row(
                "normaug",
                {
                    "method.name": "mln",
                    "method.branch_map": "shared",
                    "method.normaug": "1",
                    "method.answer": "branch",
                },
            ),
            Row("perturbed", SHARED | {"model.perturbation": "0.75"}),
            Row("equalized", SHARED | {"model.equalize_noise": "true"}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="shared",
    )
