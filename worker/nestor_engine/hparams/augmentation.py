"""A learned random augmentation of the training inputs."""

from __future__ import annotations

import torch
from torch import nn

from nestor.errors import AugmentationAmbiguous, ColumnUnusable, NetworkOutputInvalid
from nestor_engine.hparams.arguments import at_least
from nestor_engine.hparams.examples import column_of
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.hparams.network import Network
from nestor_engine.hparams.unet import UNet
from nestor_engine.objective import Batch, Tensors


class Augmentation(Hyperparameters):
    """A learned stochastic augmentation [1]: training inputs become network(x, ε) with fresh ε ~ N(0, I).

    The hyperparameters are the network's parameters, named `augmentation.<parameter>`. Validation and
    test inputs are not changed. The noise has shape (B, noise, …), the last dimensions being those of x:
    an image of noise for images, a vector for rows of features. All products of one linear system use one draw.

    Args:
        network: a module from (x, ε) to the shape of x that writes into no buffer; it is copied. It should
            start near the identity.
        channels: channels of the images, shape (B, channels, H, W), for a small `UNet` instead of a network.
        noise: channels of the noise.
        column: the input column.

    Raises:
        ProblemInvalid: neither `network` nor `channels` is given, or both are.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        channels: int | None = None,
        noise: int = 1,
        column: str = "x",
        name: str | None = None,
    ) -> None:
        if (network is None) == (channels is None):
            raise AugmentationAmbiguous()
        at_least(1, "Augmentation", "noise", noise)
        if channels is not None:
            at_least(1, "Augmentation", "channels", channels)
        self._network = Network(
            "Augmentation", network or UNet(channels or 1, noise=noise), self._named(name, "augmentation")
        )
        self._channels, self._noise, self._column = channels, noise, column
        self.init, self.entry_names = self._network.init, self._network.entry_names
        self.transforms = {}

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check the column.

        Raises:
            ProblemInvalid: there is no such column, or it does not hold images with `channels` channels.
        """
        x = column_of("Augmentation", self._column, train)
        if self._channels is not None and (x.ndim != 4 or x.shape[1] != self._channels):
            raise ColumnUnusable(
                kind=f"Augmentation(channels={self._channels})",
                column=self._column,
                expected=f"images of shape (n, {self._channels}, H, W) in the column {self._column!r}",
                dtype=x.dtype,
                shape=tuple(x.shape),
                advice="Reshape it, or pass a network.",
            )

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The batch with its inputs changed, under fresh noise of shape (B, noise, …).

        Raises:
            NetworkOutputInvalid: the network changed the shape of its inputs.
        """
        x = batch[self._column]
        noise = torch.randn((x.shape[0], self._noise, *x.shape[2:]), dtype=x.dtype, device=x.device)
        changed = self._network(values, x, noise)
        if changed.shape[1:] != x.shape[1:]:
            raise NetworkOutputInvalid(
                kind="Augmentation",
                inputs=tuple(x.shape),
                outputs=tuple(changed.shape),
                expected="the shape of its inputs",
            )
        return batch | {self._column: changed}
