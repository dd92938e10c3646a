"""FFDM-DBT: trained on digital mammograms, tested on slices of tomosynthesis too.

    python -m mln_flax.main --config=configs/ffdm_dbt.py --config.data.dir=FOLDER --workdir=W

FOLDER holds FFDM/ and DBT/ with masks beside the images (see `mln_flax/data/sets/ffdm_dbt.py`). The
other way around: --config.data.source=dbt --config.data.targets=ffdm

Not measured.
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, DataConfig


def get_config() -> Config:
    """2x2 tiles of 512 pixels, everything else but the steps as in configs/phantom.py."""
    demo = settings.load_file(str(pathlib.Path(__file__).with_name("phantom.py")))
    return dataclasses.replace(
        demo,
        data=DataConfig(name="ffdm_dbt", source="ffdm", targets=("dbt",), size=512),
        train=dataclasses.replace(demo.train, steps=1200),
    )
