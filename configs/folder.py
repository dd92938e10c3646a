"""A folder of one's own: `images/` and `masks/` by stem, `cases.csv` for patients if there is one.

    python -m mln_flax.main --config=configs/folder.py --config.data.dir=FOLDER --workdir=W

Images and masks may be DICOM, PNG, TIFF, BMP, PGM or JPEG. Without `cases.csv` and its column
`patient`, every image that is no DICOM file is taken for a patient of its own. The table's column
`domain` makes several domains: name the one to train on and those to test on by
--config.data.source and --config.data.targets.

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
        data=DataConfig(name="folder", source="folder", targets=(), size=512),
        train=dataclasses.replace(demo.train, steps=1200),
    )
