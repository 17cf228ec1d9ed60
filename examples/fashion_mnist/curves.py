"""The picture of a secure training beside the plain one: loss on the left, accuracy on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from examples.fashion_mnist.plain import Curve
from parley.errors import InputError

_SECURE, _PLAIN, _INK, _GRID = "#c2410c", "#475569", "#0f172a", "#e2e8f0"


def draw_curves(secure: Curve, plain: Curve, path: Path, *, title: str, steps_per_epoch: int) -> None:
    """Writes a PNG of 1600x720 pixels to `path`. The horizontal axis counts epochs; accuracy is given from 0 to 1.

    InputError if a curve is empty or its lists differ in length.
    """
    for name, curve in (("secure", secure), ("plain", plain)):
        if not curve.steps or not len(curve.steps) == len(curve.loss) == len(curve.accuracy):
            raise InputError(f"the {name} curve needs as many losses and accuracies as steps, and at least one")
    figure = Figure(figsize=(10, 4.5), dpi=160, facecolor="white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06))
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    figure.suptitle(title, color=_INK, fontsize=13, fontweight="bold", x=0.012, ha="left")
    for axes, heading, values in (
        (loss, "Test loss (cross-entropy)", "loss"),
        (accuracy, "Test accuracy", "accuracy"),
    ):
        _draw(axes, heading, secure, plain, values, steps_per_epoch)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    last = f"at the end: secure {secure.accuracy[-1]:.2%}, plain {plain.accuracy[-1]:.2%}"
    accuracy.annotate(
        last, (0.98, 0.05), xycoords="axes fraction", ha="right", color=_INK, fontsize=10, backgroundcolor="white"
    )
    loss.legend(frameon=False, labelcolor=_INK, fontsize=10, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _range(at: list[float], values: list[float]) -> tuple[float, float]:
    """The highest and lowest value to show: what comes in the first twentieth, the fall from chance, may leave it."""
    later = [value for x, value in zip(at, values, strict=True) if x >= max(at) / 20]
    margin = max(0.08 * (max(later) - min(later)), 1e-3)
    return max(later) + margin, min(later) - margin


def _draw(axes: Axes, heading: str, secure: Curve, plain: Curve, values: str, steps_per_epoch: int) -> None:
    plain_at = [step / steps_per_epoch for step in plain.steps]
    secure_at = [step / steps_per_epoch for step in secure.steps]
    axes.plot(plain_at, getattr(plain, values), color=_PLAIN, linewidth=2, label="plain PyTorch, pooled data")
    if len(secure_at) <= 15:  # few measurements are points: a line between them would claim what no one measured
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": "o",
            "markersize": 8,
            "markeredgecolor": "white",
            "markeredgewidth": 1.2,
            "clip_on": False,
        }
    else:
        style = {"linewidth": 2, "linestyle": (0, (4, 2))}
    top, bottom = _range(plain_at + secure_at, getattr(plain, values) + getattr(secure, values))
    inside = [bottom <= value <= top or "marker" not in style for value in getattr(secure, values)]
    shown_at = [at for at, keep in zip(secure_at, inside, strict=True) if keep]
    shown = [value for value, keep in zip(getattr(secure, values), inside, strict=True) if keep]
    axes.plot(shown_at, shown, color=_SECURE, label="secure, on secret shares", zorder=3, **style)
    axes.set_ylim(bottom, top)
    axes.set_title(heading, loc="left", color=_INK, fontsize=11)
    axes.set_xlabel("epoch", color=_INK)
    axes.set_xlim(0, max(plain_at[-1], secure_at[-1]))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_PLAIN)
