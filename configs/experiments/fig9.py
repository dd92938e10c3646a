"""No, conventional and source augmentation of a plain Swin-Unet on phantoms (the paper's Fig. 9).

Conventional are flip, scale and crop. Source augmentation adds the four intensity views, all of
them through one branch (Basenet-S). Without augmentation whole images of 128 pixels are trained
on, with it crops of 96.

9 runs of one to five minutes each on two cores. On phantoms of version 1, commit 44fb670, seeds 0
to 2, 2 cores of AMD EPYC (Zen 4), unseen DSC: 0.338 ± 0.015 without augmentation, 0.331 ± 0.035
conventional, 0.343 ± 0.015 with source augmentation.

python -m mln_flax.main --mode=experiment --config=configs/experiments/fig9.py --workdir=runs/fig9
"""

from pathlib import Path

from mln_flax.experiments.core import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Three rows that differ in what is done to a training image."""
    still = {"views.flip": "false", "views.scale": "1,1", "views.crop": "1"}
    return Experiment(
        title="Augmentation of the plain Swin-Unet on phantoms (Fig. 9 of the paper)",
        base=load_file(str(Path(__file__).parents[1] / "phantom_swin.py")),
        rows=(
            Row("no augmentation", {"views.names": "identity"} | still),
            Row("conventional", {"views.names": "identity"}),
            Row("source augmentation", {"method.branch_map": "shared"}),
        ),
        sources=("ffdm",),
        domains=("ffdm", "dbt", "film", "processing"),
        against="conventional",
        figure="augmentation",
    )
