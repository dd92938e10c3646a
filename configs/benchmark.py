"""How fast this machine is: nothing is trained, no data is needed, nothing is written.

    python -m mln_flax.main --config=configs/benchmark.py --mode=benchmark

prints a table and, last, one line of JSON. Any shipped config can be timed by this mode; here it is
one branch and one pass of `tiny` at 224 pixels, and the four branches beside it. At 512 pixels:

    --config.data.size=512 --config.model.window_size=8 --config.train.batch_size=1

In turns with a PyTorch network, where torch is installed: --config.benchmark.against=FILE, a Python
file with a class SwinUnet or UNet, as model.name is; --config.benchmark.against_channels_last=true
gives it PyTorch's other memory format. tests/benchmark/torch_unet.py is such a FILE. The U-Net of
8 to 64 channels, and that of 16 to 256:

    --config.model.name=unet --config.model.preset=unet_demo --config.model.norm=sample
    --config.data.size=128 --config.train.batch_size=16

    --config.model.name=unet --config.model.preset=unet_narrow --config.model.norm=sample
    --config.data.size=256 --config.train.batch_size=4

Compile time, memory and operations alone, without running a step: --config.benchmark.runs=0
Time against branches and devices: --config.benchmark.growth=k,devices
Against image size: --config.benchmark.growth=size --config.model.window_size=8
"""

from mln_flax.config import Config, DataConfig, TrainConfig, network


def get_config() -> Config:
    """The network and the loss that public PyTorch code has too."""
    return Config(
        data=DataConfig(size=224),
        model=network("swin_unet", preset="tiny", drop_path_rate=0.0),
        train=TrainConfig(batch_size=2, accumulate=4),  # of the step of all views: one by one
    )
