"""Slices as DOMAIN/CASE_SLICE.npz with the arrays `image` and `label`, as in Dual-Normalization.

    python -m mln_flax.main --config=configs/npz.py --config.data.dir=FOLDER --workdir=W

The folders' names are the domains: name the one to train on and those to test on by
--config.data.source and --config.data.targets. Files without a folder are the domain `npz`.

Not measured.
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, DataConfig, TilesConfig


def get_config() -> Config:
    """Whole slices of 256 pixels, the demo's network."""
    demo = settings.load_file(str(pathlib.Path(__file__).with_name("phantom.py")))
    return dataclasses.replace(
        demo,
        data=DataConfig(
            name="npz",
            source="npz",
            targets=(),
            size=256,
            tiles=TilesConfig(rows=1, columns=1),  # slices are as small as tiles already
        ),
        train=dataclasses.replace(demo.train, steps=1200),
    )
