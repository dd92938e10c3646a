"""The ablation of the paper's Table 3 on phantoms; three of its rows on the other sources too.

Basenet is the plain Swin-Unet, trained on the images alone, Basenet-S on all views: networks
without branches. -R takes the union of the branches, -E chooses by Euclidean distance, MLN-net by
cosine, + adds the mean of the input without its background. Ours, from the same trainings: -P
chooses by polarity, -M answers in one pass with the mean of the branches of that polarity. Unet is
the plain U-Net, Dots the network of the demo, convolutions around Swin blocks; -S on all views, *
by cosine. Rows that differ in the answer alone share their trainings. A step takes 4 images, each
through all views of the row: Basenet has one view, the others four.

Do branches earn their keep? The rows of Dots after -M answer by all branches' maps, weighted by
their probabilities or by how sure each is (entropy), by one pass with scales and shifts mixed by
the probabilities, or by the nearest branch of an image with the source's grays (matched). The rows
after Dots-S train branches beside a shared one, which answers (normaug), put noise on the
statistics of shallow channels (perturbed), or make noise even at the input (equalized).

Not measured on phantoms of version 2. docs/experiments.md has the rows of the first release, whose
phantoms were of version 1, with commits and machines.

python -m mln_flax.main --mode=experiment --config=configs/experiments/table3.py --workdir=runs/t3
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file

SWIN = {"model.name": "swin_unet", "model.preset": "demo", "model.drop_path_rate": "0"}
UNET = {"model.name": "unet", "model.preset": "unet_demo", "model.norm": "sample"}
PLAIN = {"method.name": "supervised"}
ALONE = {"views.names": "identity"}  # no other view
DOTS = {"model.name": "conv_swin_unet", "model.preset": "dots"}
MLN = {"method.name": "mln", "method.answer": "branch", "method.temperature": "1"}
COSINE = MLN | {"method.selection": "cosine"}
NEAREST = MLN | {"method.selection": "polarity"}
MIXED = NEAREST | {"method.answer": "mixed", "method.mixing": "polarity"}
NORMAUG = MLN | {"method.branch_map": "shared", "method.normaug": "1"}
FFDM = ("ffdm",)


def get_experiment() -> Experiment:
    """The paper's rows and ours; the main ones are trained on every source."""
    return Experiment(
        title="Ablation of MLN-net on phantoms (Table 3 of the paper)",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
        rows=(
            Row("Basenet", SWIN | PLAIN | ALONE),
            Row("Basenet-S", SWIN | PLAIN),
            Row("MLN-net-R", SWIN | MLN | {"method.answer": "union"}, FFDM),
            Row("MLN-net-E", SWIN | MLN | {"method.selection": "euclidean"}, FFDM),
            Row("MLN-net", SWIN | COSINE),
            Row("MLN-net-E+", SWIN | MLN | {"method.selection": "euclidean+"}, FFDM),
            Row("MLN-net+", SWIN | MLN | {"method.selection": "cosine+"}, FFDM),
            Row("MLN-net-P", SWIN | NEAREST),
            Row("MLN-net-M", SWIN | MIXED),
            Row("Unet-S", UNET | PLAIN),
            Row("Unet*", UNET | COSINE, FFDM),
            Row("Unet-P", UNET | NEAREST),
            Row("Unet-M", UNET | MIXED),
            Row("Dots-S", DOTS | PLAIN),
            Row("Dots-S normaug", DOTS | NORMAUG, FFDM),
            Row("Dots-S perturbed", DOTS | PLAIN | {"model.perturbation": "0.75"}, FFDM),
            Row("Dots-S equalized", DOTS | PLAIN | {"model.equalize_noise": "true"}, FFDM),
            Row("Dots*", DOTS | COSINE, FFDM),
            Row("Dots-P", DOTS | NEAREST),
            Row("Dots-M", DOTS | MIXED),
            Row("Dots-P mixed", DOTS | MIXED | {"method.mixing": "probabilities"}, FFDM),
            Row("Dots-P weighted", DOTS | NEAREST | {"method.answer": "weighted"}, FFDM),
            Row("Dots-P entropy", DOTS | NEAREST | {"method.answer": "entropy"}, FFDM),
            Row("Dots-P matched", DOTS | NEAREST | {"method.matching": "true"}, FFDM),
        ),
        sources=("ffdm", "dbt", "film", "processing"),
        domains=("ffdm", "dbt", "film", "processing"),
        seeds=(0, 1, 2),
        against="Basenet-S",
    )
