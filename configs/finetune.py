"""The weights in the box, trained further on a folder of one's own (as in configs/folder.py).

    python -m mln_flax.main --config=configs/finetune.py --config.data.dir=FOLDER --workdir=W

Network, method and views are those of configs/detector.py, whose weights they are. Another model to
start from is named by --config.model.init_from=FOLDER, a workdir or a packed model, and its network
by --config.model.name and its sizes.

The weights know pixels of about 0.1 mm. 10 x 8 tiles of 256 pixels give a detector of 24 x 18 cm
pixels of 0.09 mm, and one of 30 x 24 cm 0.12 mm: change data.tiles for images of another format.

Not measured.
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, DataConfig, OptimConfig, TilesConfig, TrainConfig


def get_config() -> Config:
    """Few steps at a tenth of the learning rate, checked often: the best state is kept."""
    detector = settings.load_file(str(pathlib.Path(__file__).with_name("detector.py")))
    return dataclasses.replace(
        detector,
        data=DataConfig(
            name="folder",
            source="folder",
            targets=(),
            size=256,
            tiles=TilesConfig(rows=10, columns=8),
        ),
        model=dataclasses.replace(detector.model, init_from="detector"),
        # The cross-entropy is there from the first step: nothing has to be found first.
        method=dataclasses.replace(detector.method, cross_entropy_from_step=0),
        optim=OptimConfig(learning_rate=detector.optim.learning_rate / 10, warmup_steps=20),
        # Small tiles are mostly empty: half of a batch's places are for those with a label.
        train=TrainConfig(steps=200, foreground=0.5, evaluate_every_steps=20),
    )
