"""A folder of one's own: `images/` and `masks/` by stem, `cases.csv` for patients if there is one.

    python -m mln_flax.main --config=configs/folder.py --config.data.dir=FOLDER --workdir=W

Images and masks may be DICOM, PNG, TIFF, BMP, PGM or JPEG. Without `cases.csv` and its column
`patient`, every image that is no DICOM file is taken for a patient of its own. The table's column
`domain` makes several domains: name the one to train on and those to test on by
--config.data.source and --config.data.targets.

Not measured.
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
    """2x2 tiles of 512 pixels, the demo's network."""
    return Config(
        data=DataConfig(name="folder", source="folder", targets=(), size=512),
        views=ViewsConfig(crop=0.75),
        model=network("conv_swin_unet", preset="dots"),
        method=method(
            "mln",
            answer="mixed",
            mixing="polarity",
            foreground_only=True,
            cross_entropy=1.0,
            cross_entropy_from_step=250,
            hard_negatives=0.03,
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, clip_norm=1.0),
        train=TrainConfig(steps=1200, evaluate_every_steps=100, log_every_steps=50),
    )
