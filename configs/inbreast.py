"""INbreast: digital mammograms with their single calcifications outlined.

    python -m mln_flax.main --config=configs/inbreast.py --config.data.dir=FOLDER --workdir=W

FOLDER holds INbreast.csv and the DICOM and XML files of the public archive, in any folders; a
calcification marked by a point becomes a disc (data.point_radius_mm). There is no target: give
prepared folders of other data sets by --config.data.also and --config.data.targets. For the
outlines of clusters instead: --config.data.label=cluster

Not measured.
"""

from mln_flax.config import (
    Config,
    DataConfig,
    OptimConfig,
    TrainConfig,
    ViewsConfig,
    method,
    network,
)


def get_config() -> Config:
    """2x2 tiles of 512 pixels, the demo's network."""
    return Config(
        data=DataConfig(name="inbreast", source="inbreast", targets=(), size=512),
        views=ViewsConfig(crop=0.75),
        model=network("conv_swin_unet", preset="dots"),
        method=method(
            "mln",
            answer="mixed",
            mixing="polarity",
            foreground_only=True,
            cross_entropy=1.0,
            cross_entropy_from_step=250,
            hard_negatives=0.03,
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, clip_norm=1.0),
        train=TrainConfig(steps=1200, evaluate_every_steps=100, log_every_steps=50),
    )
