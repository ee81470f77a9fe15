"""A small network from (image, noise) to an image of the same size."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import OptionOutOfRange
from nestor_engine.hparams.arguments import at_least, checked

GROUPS = 4  # of channels, in every GroupNorm


class UNet(nn.Module):
    """A U-Net [1] with a residual connection. Its last layer starts at zero, so it starts as the identity.

    A random initial change would damage the images of the first inner steps. GroupNorm has no running
    statistics and reads one image at a time; GELU is smooth.

    Args:
        channels: of the image.
        noise: channels of the noise.
        width: channels at full resolution, a multiple of four; they double with every level.
        depth: how often the resolution is halved; any height and width are possible.

    [1] Ronneberger, Fischer and Brox (2015), U-Net: convolutional networks for biomedical image segmentation.
    """

    @checked("UNet")
    def __init__(self, channels: int, *, noise: int = 1, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        at_least(1, "UNet", "channels", channels)
        at_least(0, "UNet", "noise", noise)
        at_least(0, "UNet", "depth", depth, largest=16)
        if width < GROUPS or width % GROUPS:
            raise OptionOutOfRange(option=f"UNet(width={width})", rule=f"it must be a multiple of {GROUPS}")
        widths = [width * 2**level for level in range(depth + 1)]
        self.enter = _block(channels + noise, width)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in reversed([*pairwise(widths)]))
        self.leave = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # pyright: ignore[reportArgumentType] it has one

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """(B, channels, H, W) and (B, noise, H, W) → (B, channels, H, W)."""
        h = self.enter(torch.cat([image, noise], 1))
        skipped: list[Tensor] = []
        for down in self.down:
            skipped.append(h)
            h = down(h)
        for up in self.up:
            skip = skipped.pop()
            h = up(torch.cat([F.interpolate(h, size=skip.shape[2:]), skip], 1))
        return image + self.leave(h)


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(GROUPS, outputs), nn.GELU())
