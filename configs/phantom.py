"""Phantoms: source `ffdm`, targets `dbt`, `film` and `processing`.

python -m mln_flax.main --config=configs/phantom.py --workdir=runs/demo
"""

from mln_flax.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TilesConfig,
    TrainConfig,
    ViewsConfig,
)


def get_config() -> Config:
    """Settings that train in minutes on two cores."""
    return Config(
        data=DataConfig(tiles=TilesConfig(rows=0, columns=0)),
        views=ViewsConfig(crop=96),
        model=ModelConfig(preset="demo", drop_path_rate=0.0),
        method=MethodConfig(foreground_only=True),
        optim=OptimConfig(learning_rate=2e-3),
        train=TrainConfig(steps=1200),
    )
