"""INbreast: digital mammograms with their single calcifications outlined.

    python -m mln_flax.main --config=configs/inbreast.py --config.data.dir=FOLDER --workdir=W

FOLDER holds INbreast.csv and the DICOM and XML files of the public archive, in any folders; a
calcification marked by a point becomes a disc (data.point_radius_mm). There is no target: give
prepared folders of other data sets by --config.data.also and --config.data.targets. For the
outlines of clusters instead: --config.data.label=cluster

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
        data=DataConfig(name="inbreast", source="inbreast", targets=(), size=512),
        train=dataclasses.replace(demo.train, steps=1200),
    )
