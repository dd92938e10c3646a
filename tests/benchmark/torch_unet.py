"""The U-Net of `mln_flax.models.unet` with one branch, in PyTorch: a file to time ours against.

    --config.benchmark.against=tests/benchmark/torch_unet.py

`test_torch_unet.py` shows that both have the same parameters and, given the same values of them,
the same logits. It needs torch alone and imports nothing of the package.
"""

import torch
from torch import nn

NORMS = {
    "sample": lambda width: nn.GroupNorm(1, width),
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "batch": lambda width: nn.BatchNorm2d(width),
}


def stage(channels, width, norm):
    """Two 3x3 convolutions, each with a norm and a ReLU behind it."""
    layers = []
    for inputs in (channels, width):
        # Only the norm of a whole sample keeps a constant that is added to a channel.
        conv = nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=norm == "sample")
        layers += [conv, NORMS[norm](width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images [B, in_chans, H, W] to logits [B, num_classes, H, W].

    Each of `widths` is a stage's channels; H and W must be even at every stage but the last.
    """

    def __init__(self, in_chans, num_classes, widths, norm):
        super().__init__()
        pairs = list(zip(widths, widths[1:], strict=False))  # (finer, coarser)
        self.first = stage(in_chans, widths[0], norm)
        self.down = nn.ModuleList(stage(fine, coarse, norm) for fine, coarse in pairs)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(stage(2 * fine, fine, norm) for fine, _ in pairs)
        self.head = nn.Conv2d(widths[0], num_classes, kernel_size=1)

    def forward(self, image):
        maps = [self.first(image)]
        for down in self.down:
            maps.append(down(nn.functional.max_pool2d(maps[-1], kernel_size=2)))
        x = maps.pop()
        for upsample, up in zip(reversed(self.upsample), reversed(self.up), strict=True):
            x = up(torch.cat((maps.pop(), upsample(x)), dim=1))
        return self.head(x)
