"""The demo's phantoms for a small Swin-Unet, the paper's kind of network, and its kind of answer.

Base of the experiments that repeat the paper's figures. Patches of 4 x 4 pixels see fewer dots than
the demo's network does: docs/experiments.md.

Not measured on phantoms of version 2.

python -m mln_flax.main --config=configs/phantom_swin.py --workdir=runs/swin
"""

import dataclasses
import pathlib

from mln_flax import settings
from mln_flax.config import Config, OptimConfig, TrainConfig, network


def get_config() -> Config:
    """The demo but for network, answer and steps, which are those of the first release."""
    demo = settings.load_file(str(pathlib.Path(__file__).with_name("phantom.py")))
    return dataclasses.replace(
        demo,
        model=network("swin_unet", preset="demo", drop_path_rate=0.0),
        method=dataclasses.replace(demo.method, answer="branch", mixing="probabilities"),
        optim=OptimConfig(learning_rate=4e-3),
        train=TrainConfig(steps=1200, evaluate_every_steps=200, log_every_steps=50),
    )
