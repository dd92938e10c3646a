"""The general detector, whose weights the package carries: phantoms of machines drawn per image.

The source is `any`; the four named machines are targets, which training never sees. No image of a
patient takes part. The model that answers is packed by the second command: see docs/detector.md.

    python -m mln_flax.main --config=configs/detector.py --workdir=runs/detector
    python -m mln_flax.main --mode=pack --workdir=runs/detector --output=mln_flax/detector

Commit 25aacb9, seed 0, 2 cores of AMD EPYC (Zen 4): some 45 minutes of training and 3 of counting
whole phantoms; DSC 0.519 on 256 validation windows. docs/detector.md has what it finds on films.
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
    """Many phantoms, each seen as it is, and enough whole ones to count false clusters on."""
    return Config(
        data=DataConfig(
            source="any",
            targets=("ffdm", "dbt", "film", "processing"),
            phantom=PhantomConfig(
                train=12000,
                whole_train=400,  # what lies around a lesion is not what fills a whole view
                validation=256,
                test=96,
                whole_normal=40,
                whole_lesions=20,
            ),
            tiles=TilesConfig(rows=0, columns=0),  # phantoms are as small as tiles already
        ),
        # The machines differ by more than views do, so no image is shown twice in a step.
        views=ViewsConfig(names=("identity",), crop=0.75),
        model=network("conv_swin_unet", preset="dots"),
        method=method(
            "supervised",
            foreground_only=True,
            cross_entropy=1.0,
            cross_entropy_from_step=1000,
            hard_negatives=0.03,
        ),
        # Labels are rare: with larger first steps the network may learn to find nothing.
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=300, clip_norm=1.0),
        train=TrainConfig(
            steps=12000, batch_size=16, evaluate_every_steps=1000, log_every_steps=200
        ),
    )
