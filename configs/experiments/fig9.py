"""No, conventional and source augmentation of a plain Swin-Unet on phantoms (the paper's Fig. 9).

Conventional are flip, scale and crop. Source augmentation adds the four intensity views, all of
them through one branch (Basenet-S). Without augmentation whole images of 128 pixels are trained
on, with it crops of 96.

At most 5 minutes a run on two cores are meant, 9 runs. Not measured.

python -m mln_flax.main --mode=experiment --config=configs/experiments/fig9.py --workdir=runs/fig9
"""

from pathlib import Path

from mln_flax.experiment_config import Experiment, Row
from mln_flax.settings import load_file


def get_experiment() -> Experiment:
    """Three rows that differ in what is done to a training image."""
    still = {"views.flip": "false", "views.scale": "1,1", "views.crop": "1"}
    return Experiment(
        title="Augmentation of the plain Swin-Unet on phantoms (Fig. 9 of the paper)",
        base=load_file(str(Path(__file__).parents[1] / "phantom.py")),
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
