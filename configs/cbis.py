"""Digitized screen film: CBIS-DDSM, whose microcalcification clusters are outlined.

    python -m mln_flax.main --config=configs/cbis.py --config.data.dir=FOLDER --workdir=W

FOLDER holds the tables calc_case_description_train_set.csv and calc_case_description_test_set.csv
anywhere below it, and the images as one has them:

- the archive's download: .../Calc-Test_P_00038_LEFT_CC/STUDY/SERIES/1-1.dcm, or only SERIES/1-1.dcm
- its first release, as in the tables: Calc-Test_P_00038_LEFT_CC/STUDY/SERIES/000000.dcm
- the copy as JPEG: jpeg/SERIES/*.jpg with csv/dicom_info.csv
- PNG files at the tables' paths, or named Calc-Test_P_00038_LEFT_CC.png and ..._1_mask.png

Cases of masses may lie beside them and count for nothing. The official train and test parts are
kept; validation is taken from the training patients. What was repaired or left out is told with
its reason: look at it with --mode=prepare first. There is no target: give the prepared folder of
another data set whose labels are clusters by --config.data.also.

Only the data and the number of steps differ from configs/phantom.py. Tiles of 512 pixels take hours
on two cores; an accelerator helps. The archive itself is not measured.
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, DataConfig


def get_config() -> Config:
    """2x2 tiles of 512 pixels, everything else as for the phantoms."""
    demo = settings.load_file(str(pathlib.Path(__file__).with_name("phantom.py")))
    return dataclasses.replace(
        demo,
        data=DataConfig(name="cbis_ddsm", source="cbis_ddsm", targets=(), size=512),
        train=dataclasses.replace(demo.train, steps=1200),
    )
