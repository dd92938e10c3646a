"""The general detector, whose weights the package carries: phantoms of machines drawn per image.

The source is `any`; the four named machines are targets, which training never sees. No image of a
patient takes part. The model that answers is packed by the second command: see docs/detector.md.

    python -m mln_flax.main --config=configs/detector.py --workdir=runs/detector
    python -m mln_flax.main --mode=pack --workdir=runs/detector --output=mln_flax/detector

Not measured.
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


def get_config() -> Config:
    """Many phantoms, and enough whole ones without lesions to count false clusters on."""
    return Config(
        data=DataConfig(
            source="any",
            targets=("ffdm", "dbt", "film", "processing"),
            phantom=PhantomConfig(
                train=800, validation=48, test=48, whole_normal=40, whole_lesions=20
            ),
            tiles=TilesConfig(rows=0, columns=0),  # phantoms are as small as tiles already
        ),
        views=ViewsConfig(crop=0.75),
        model=network("unet", preset="unet_demo", norm="sample"),
        method=method(
            "supervised",
            foreground_only=True,
            cross_entropy=1.0,
            cross_entropy_from_step=400,
            hard_negatives=0.03,
        ),
        optim=OptimConfig(learning_rate=4e-3),
        train=TrainConfig(steps=1200, evaluate_every_steps=200, log_every_steps=50),
    )
