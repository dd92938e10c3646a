"""Slices as DOMAIN/CASE_SLICE.npz with the arrays `image` and `label`, as in Dual-Normalization.

    python -m mln_flax.main --config=configs/npz.py --config.data.dir=FOLDER --workdir=W

The folders' names are the domains: name the one to train on and those to test on by
--config.data.source and --config.data.targets. Files without a folder are the domain `npz`.

Not measured.
"""

from mln_flax.config import (
    Config,
    DataConfig,
    OptimConfig,
    TilesConfig,
    TrainConfig,
    ViewsConfig,
    method,
    network,
)


def get_config() -> Config:
    """Whole slices of 256 pixels, the demo's network."""
    return Config(
        data=DataConfig(
            name="npz",
            source="npz",
            targets=(),
            size=256,
            tiles=TilesConfig(rows=1, columns=1),  # slices are as small as tiles already
        ),
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
