"""Digitized screen film: mini-MIAS, whose circles around clusters become regions.

    python -m mln_flax.main --config=configs/mini_mias.py --config.data.dir=FOLDER --workdir=W

FOLDER holds Info.txt and the mdbNNN.pgm files of the public archive. There is no target; prepared
data of another archive with outlines of clusters can be one, by --config.data.also and
--config.data.targets. The report shows how the branches answer on the films' own views.

About 1.2 steps a second on two cores. Measured only as a proof of the path, on 31 of the 322 films:
after 50 steps nothing is marked yet. The whole archive is not measured.
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
    """Tiles of 256 pixels (0.4 mm), a small Swin-Unet."""
    return Config(
        data=DataConfig(name="mini_mias", source="mini_mias", targets=(), size=256),
        views=ViewsConfig(crop=0.75),
        model=network("swin_unet", preset="demo", drop_path_rate=0.0),
        method=method("mln", foreground_only=True),
        optim=OptimConfig(learning_rate=2e-3),
        train=TrainConfig(steps=600),
    )
