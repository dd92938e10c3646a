"""The first stage of the general detector: windows at lesions, of machines drawn per image.

`configs/detector.py` goes on from it, and says more.
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
                train=16000, validation=256, test=96, whole_normal=40, whole_lesions=20
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
