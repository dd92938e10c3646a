"""The general detector, whose weights the package carries: phantoms of machines drawn per image.

The source is `any`; the four named machines are targets, which training never sees. No image of a
patient takes part. The first stage learns lesions where they are; this one goes on with windows
from anywhere in whole views beside them, of which few show a lesion and many what only looks like
one (as classifiers of patches are trained before those of whole mammograms, Shen et al. 2019). The
model that answers is packed by the last command.

Commit 0332857, seed 0, 2 cores of AMD EPYC (Zen 4): 30 minutes after 45 of the first stage; DSC
0.503 on 256 validation windows. docs/detector.md has what it finds on films.

    python -m mln_flax.main --config=configs/detector_start.py --workdir=runs/detector_start
    python -m mln_flax.main --config=configs/detector.py --workdir=runs/detector
    python -m mln_flax.main --mode=pack --workdir=runs/detector --output=mln_flax/detector
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, OptimConfig


def get_config() -> Config:
    """Fewer steps of half the size; half of a batch's places are for windows with a lesion."""
    start = settings.load_file(str(pathlib.Path(__file__).with_name("detector_start.py")))
    phantom = dataclasses.replace(start.data.phantom, train=9000, whole_train=300)
    return dataclasses.replace(
        start,
        data=dataclasses.replace(start.data, phantom=phantom),
        model=dataclasses.replace(start.model, init_from="runs/detector_start"),
        method=dataclasses.replace(start.method, cross_entropy_from_step=0),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=300, clip_norm=1.0),
        train=dataclasses.replace(start.train, steps=7000, foreground=0.5),
    )
