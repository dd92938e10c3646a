"""FFDM-DBT: trained on digital mammograms, tested on slices of tomosynthesis too.

    python -m mln_flax.main --config=configs/ffdm_dbt.py --config.data.dir=FOLDER --workdir=W

FOLDER holds FFDM/ and DBT/ with masks beside the images (see `mln_flax/data/sets/ffdm_dbt.py`). The
other way around: --config.data.source=dbt --config.data.targets=ffdm

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
        data=DataConfig(name="ffdm_dbt", source="ffdm", targets=("dbt",), size=512),
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
