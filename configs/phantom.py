"""Phantoms: source `ffdm`, targets `dbt`, `film` and `processing`.

Some five minutes on two cores after the installation. 2 cores of AMD EPYC (Zen 4), seed 0, commit
e4a1283, empty caches: 4 min 23 s; DSC 0.61 on `ffdm`, 0.53 on `dbt`, 0.19 on `film`, 0.40 on
`processing`; view accuracy of the shipped selection 0.90.

python -m mln_flax.main --config=configs/phantom.py --workdir=runs/demo
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
    """Settings that train in minutes on two cores."""
    return Config(
        data=DataConfig(
            phantom=PhantomConfig(
                train=600, validation=48, test=48, whole_normal=5, whole_lesions=2
            ),
            tiles=TilesConfig(rows=0, columns=0),  # phantoms are as small as tiles already
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
        # Labels are rare: with larger first steps a network may learn to find nothing.
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, clip_norm=1.0),
        train=TrainConfig(steps=500, evaluate_every_steps=100, log_every_steps=50),
    )
