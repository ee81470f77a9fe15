"""Pictures and curves as PNG files, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

Curve = tuple[Sequence[float], Sequence[float]]  # x and y


def curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x: str,
    y: str,
    log: Literal["", "x", "y", "xy"] = "",
    columns: int = 4,
) -> None:
    """Curves with names, in panels with titles; a curve has the same color in every panel."""
    figure, axes = _panels(len(panels), columns, width=3.6, height=2.9, sharex=False)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        for name, (xs, ys) in panel.items():
            at = names.index(name)
            ax.plot(xs, ys, label=name, color=f"C{at % 10}", linestyle=("-", "--", ":")[at // 10 % 3], linewidth=1.3)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(x)
        ax.grid(alpha=0.3)
        if "x" in log:
            ax.set_xscale("log")
        if "y" in log:
            ax.set_yscale("log")
    axes[0].set_ylabel(y)
    known = {line.get_label(): line for ax in axes for line in ax.get_lines()}
    place = {"loc": "outside lower center", "ncols": min(2 * min(columns, len(panels)), len(known)), "fontsize": 9}
    figure.legend(list(known.values()), [str(name) for name in known], **place)
    figure.savefig(path, dpi=110)


def pictures(
    path: Path, images: Mapping[str, Tensor], *, columns: int = 10, clip: tuple[float, float] | None = None
) -> None:
    """Rows of pictures under titles.

    Args:
        images: title → pictures of shape (n, channels, height, width), of one or three channels.
        clip: the values that are black and white; by default the extremes of each row.
    """
    panels = {}
    for title, x in images.items():
        low, high = clip or (float(x.min()), float(x.max()))
        panels[title] = _tiled(((x.detach().cpu() - low) / max(high - low, 1e-12)).clamp(0, 1), columns)
    wide = max(panel.shape[1] for panel in panels.values())
    heights = [panel.shape[0] / wide for panel in panels.values()]
    figure = Figure(figsize=(8, sum(8 * h + 0.35 for h in heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        ax.imshow(panel.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10, loc="left")
        ax.axis("off")
    figure.savefig(path, dpi=110)


def matrices(path: Path, images: Mapping[str, Tensor], *, columns: int = 3, decades: float = 4) -> None:
    """Matrices by the logarithm of their magnitudes, red large and blue small; each has a scale of its own.

    Args:
        images: title → a matrix.
        decades: below the scale's upper end, the 99 % quantile of what is not zero; less than that is clipped.
    """
    figure, axes = _panels(len(images), columns, width=3.4, height=3.2)
    for ax, (title, matrix) in zip(axes, images.items(), strict=True):
        size = matrix.detach().abs().double()
        seen = size[size > 0]
        high = float(torch.quantile(seen[:: max(1, len(seen) // 1_000_000)], 0.99))  # it takes 16 million at most
        shown = size.clamp(high * 10**-decades, high).log10()
        image = ax.imshow(shown.numpy(), cmap="coolwarm", interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
        figure.colorbar(image, ax=ax, shrink=0.8)
    figure.supxlabel("logarithm (base 10) of the magnitude", fontsize=9)
    figure.savefig(path, dpi=110)


def _panels(count: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """A figure with that many axes, in rows of at most `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes[count:]:
        ax.axis("off")
    return figure, axes[:count]


def _tiled(x: Tensor, columns: int) -> Tensor:
    """Pictures (n, channels, h, w) side by side with a white line between them: (H, W), or (H, W, 3)."""
    n, channels, h, w = x.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.ones(channels, rows * (h + 1) - 1, columns * (w + 1) - 1)
    for k in range(n):
        top, left = k // columns * (h + 1), k % columns * (w + 1)
        sheet[:, top : top + h, left : left + w] = x[k]
    return sheet[0] if channels == 1 else sheet.permute(1, 2, 0)
