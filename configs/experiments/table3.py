"""The ablation of the paper's Table 3 on phantoms; three of its rows on the other sources too.

Basenet is the plain Swin-Unet, trained on the images alone, Basenet-S on all views: networks
without branches. -R takes the union of the branches, -E chooses by Euclidean distance, MLN-net by
cosine, + adds the mean of the input without its background. Ours, from the same trainings: -P
chooses by polarity, -W weighs the branches by its probabilities; Unet is the plain U-Net, Unet-S
the same on all views. Rows that differ in the answer alone share their trainings: 18 on `ffdm`
(Basenet, Basenet-S, MLN-net and three U-Nets, three seeds each), 9 on each other source. A step
takes 4 images, each through all views of the row: Basenet and Unet have one view, the others four.

45 runs, one (Basenet) to six minutes (U-Net) each on two cores. DSC on unseen domains of Basenet-S
and MLN-net-P, three seeds: source `ffdm` 0.343 ± 0.015 and 0.396 ± 0.014, `dbt` 0.350 ± 0.012 and
0.394 ± 0.015, `film` 0.290 ± 0.057 and 0.371 ± 0.007; from `ffdm` Unet-S 0.613 ± 0.024, Unet-P
0.603 ± 0.015. docs/experiments.md has all rows, commits and the machines. Its records hold the four
plain rows as MLN-net with one branch, which trains and answers alike: they go on without --config.

python -m mln_flax.main --mode=experiment --config=configs/experiments/table3.py --workdir=runs/t3
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file

UNET = {"model.name": "unet", "model.preset": "unet_demo", "model.norm": "sample"}
PLAIN = {"method.name": "supervised"}
ALONE = {"views.names": "identity"}  # no other view
NEAREST = {"method.selection": "polarity", "method.answer": "branch"}
WEIGHTED = {"method.selection": "polarity", "method.answer": "weighted"}
FFDM = ("ffdm",)


def get_experiment() -> Experiment:
    """Ten rows of the paper and six of ours; the main ones are trained on every source."""
    return Experiment(
        title="Ablation of MLN-net on phantoms (Table 3 of the paper)",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
        rows=(
            Row("Basenet", PLAIN | ALONE),
            Row("Basenet-S", PLAIN),
            Row("Unet", UNET | PLAIN | ALONE, FFDM),
            Row("Unet-S", UNET | PLAIN, FFDM),
            Row("MLN-net-R", {"method.answer": "union"}, FFDM),
            Row("Unet-R", UNET | {"method.answer": "union"}, FFDM),
            Row("MLN-net-E", {"method.selection": "euclidean"}, FFDM),
            Row("Unet-E", UNET | {"method.selection": "euclidean"}, FFDM),
            Row("MLN-net", {"method.selection": "cosine"}),
            Row("Unet*", UNET | {"method.selection": "cosine"}, FFDM),
            Row("MLN-net-E+", {"method.selection": "euclidean+"}, FFDM),
            Row("MLN-net+", {"method.selection": "cosine+"}, FFDM),
            Row("MLN-net-P", NEAREST),
            Row("Unet-P", UNET | NEAREST, FFDM),
            Row("MLN-net-W", WEIGHTED),
            Row("Unet-W", UNET | WEIGHTED, FFDM),
        ),
        sources=("ffdm", "dbt", "film", "processing"),
        domains=("ffdm", "dbt", "film", "processing"),
        seeds=(0, 1, 2),
        against="Basenet-S",
    )
