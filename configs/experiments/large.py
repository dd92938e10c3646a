"""The ablation on phantoms of 256 pixels with the Swin-Unet of full width, for an accelerator.

Twenty thousand steps of 8 images. Runs may be shared by several machines: give each its part with
--config.shard=1/3, 2/3 and 3/3, and let them write to one workdir, or copy their runs/ together.

Not measured.

python -m mln_flax.main --mode=experiment --config=configs/experiments/large.py --workdir=runs/large
"""

from mln_flax.config import (
    Config,
    DataConfig,
    OptimConfig,
    PhantomConfig,
    TilesConfig,
    TrainConfig,
    ViewsConfig,
    method,
    network,
)
from mln_flax.experiments.core import Experiment, Row

UNET = {"model.name": "unet", "model.preset": "unet_narrow", "model.norm": "sample"}
PLAIN = {"method.name": "supervised"}
ALONE = {"views.names": "identity"}  # no other view
NEAREST = {"method.selection": "polarity", "method.answer": "branch"}
WEIGHTED = {"method.selection": "polarity", "method.answer": "weighted"}
FFDM = ("ffdm",)


def get_experiment() -> Experiment:
    """The rows of table3.py on every source; of its U-Nets the main ones, on `ffdm`."""
    return Experiment(
        title="Ablation of MLN-net on phantoms of 256 pixels",
        base=base(),
        rows=(
            Row("Basenet", PLAIN | ALONE),
            Row("Basenet-S", PLAIN),
            Row("MLN-net-R", {"method.answer": "union"}),
            Row("MLN-net-E", {"method.selection": "euclidean"}),
            Row("MLN-net", {"method.selection": "cosine"}),
            Row("MLN-net-E+", {"method.selection": "euclidean+"}),
            Row("MLN-net+", {"method.selection": "cosine+"}),
            Row("MLN-net-P", NEAREST),
            Row("MLN-net-W", WEIGHTED),
            Row("Unet", UNET | PLAIN | ALONE, FFDM),
            Row("Unet-S", UNET | PLAIN, FFDM),
            Row("Unet-P", UNET | NEAREST, FFDM),
            Row("Unet-W", UNET | WEIGHTED, FFDM),
        ),
        sources=("ffdm", "dbt", "film", "processing"),
        domains=("ffdm", "dbt", "film", "processing"),
        against="Basenet-S",
    )


def base() -> Config:
    """Settings of a run in which nothing is sized for a small machine."""
    return Config(
        data=DataConfig(
            size=256,
            phantom=PhantomConfig(train=4000, validation=100, test=200),
            tiles=TilesConfig(rows=0, columns=0),  # phantoms are as small as tiles already
        ),
        views=ViewsConfig(crop=0.75),
        model=network("swin_unet", preset="tiny", dtype="bfloat16"),
        method=method(
            "mln",
            foreground_only=True,
            cross_entropy=1.0,
            cross_entropy_from_step=4000,
            hard_negatives=0.03,
        ),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=500),
        train=TrainConfig(
            steps=20_000, batch_size=8, evaluate_every_steps=1000, log_every_steps=100
        ),
    )
