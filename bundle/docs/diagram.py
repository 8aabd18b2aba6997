"""Draw the picture of the method as method.png and method.svg: python -m docs.diagram, from the bundle's folder.

The documents show the PNG, since not every browser shows the brains that are embedded in an SVG on GitHub.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from scripts.data.phantom import draw_patient
from scripts.labels import CLASS_COLOURS, SERIES_COLOURS

WIDTH, HEIGHT = 14.0, 9.4  # inches, which are the units of all places below
BLUE, ORANGE, GREEN, PINK = SERIES_COLOURS  # teachers, student, labels, fusion
INK, GREY = "#222222", "#666666"
PATIENT, SIZE, SLICE = 13, 96, 55  # the phantom that is shown
TEACHERS = {"FLAIR": 0.5, "T2": 3.8, "T1": 7.1}  # left edges
SOFT = (0, (3, 2))  # line style of soft targets


def tint(colour: str, share: float = 0.16) -> tuple[float, ...]:
    """A colour mixed into white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def box(axis: Axes, place: tuple[float, float, float, float], colour: str, text: str = "", size: float = 15) -> None:
    """A rounded box at (left, bottom, width, height) with text in its middle."""
    left, bottom, width, height = place
    style = "round,pad=0,rounding_size=0.14"
    edges = {"facecolor": tint(colour), "edgecolor": colour, "linewidth": 2}
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, **edges))
    axis.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def panel(axis: Axes, place: tuple[float, float, float, float], colour: str, title: str) -> None:
    """A light background with a title at its top left."""
    left, bottom, width, height = place
    style = "round,pad=0,rounding_size=0.2"
    axis.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor="#CCCCCC"))
    axis.text(left + 0.25, bottom + height - 0.36, title, va="center", fontsize=17, color=INK, fontweight="bold")


def arrow(axis: Axes, points: list[tuple[float, float]], colour: str, soft: bool = False) -> None:
    """A line through points, with a head at the last one."""
    style = SOFT if soft else "-"
    *_, before, last = points
    axis.plot(*zip(*points[:-1], before), color=colour, linewidth=2, linestyle=style, solid_joinstyle="round")
    look = {"arrowstyle": "-|>,head_width=0.3,head_length=0.55", "color": colour, "linewidth": 2, "shrinkA": 0}
    axis.annotate("", last, before, arrowprops=look | {"linestyle": style, "shrinkB": 0, "mutation_scale": 13})


def pill(axis: Axes, x: float, y: float, text: str) -> None:
    """A mark on a box that learns from labels, with the weight of that loss."""
    look = {"boxstyle": "round,pad=0.28,rounding_size=0.7", "facecolor": "#00795A", "edgecolor": "white"}
    axis.text(x, y, text, ha="center", va="center", fontsize=12.5, color="white", bbox=look, zorder=5)


def picture(axis: Axes, image: np.ndarray, left: float, bottom: float, name: str, size: float = 1.15) -> None:
    """A slice with its name above it."""
    axis.imshow(image, extent=(left, left + size, bottom, bottom + size), cmap="gray", vmin=0, vmax=1, zorder=2)
    axis.text(left + size / 2, bottom + size + 0.17, name, ha="center", va="center", fontsize=14, color=INK)


def slices() -> dict[str, np.ndarray]:
    """One slice of a phantom patient: the four sequences in grey, and T1ce with the label in colour."""
    images, label = draw_patient(np.random.default_rng([0, PATIENT]), SIZE)
    crop = (slice(8, -8), slice(8, -8))
    shown = {name: np.rot90(image[:, :, SLICE])[crop] for name, image in images.items()}
    grey = {name: np.clip(image / np.percentile(image[image > 0], 99.5), 0, 1) for name, image in shown.items()}
    coloured = np.repeat(grey["t1ce"][..., None], 3, axis=2)
    classes = np.rot90(label[:, :, SLICE])[crop]
    for value, colour in CLASS_COLOURS.items():
        coloured[classes == value] = 0.35 * coloured[classes == value] + 0.65 * np.array(to_rgb(colour))
    return grey | {"label": coloured}


def draw_teachers(axis: Axes, shown: dict[str, np.ndarray]) -> None:
    """Three teachers, the bus that takes their features to the fusion, and the confidence in each."""
    bus = 8.42
    for name, left in TEACHERS.items():
        picture(axis, shown[name.lower()], left, 6.45, name)
        arrow(axis, [(left + 1.15, 7.02), (left + 1.5, 7.02)], GREY)
        box(axis, (left + 1.5, 6.5, 1.4, 1.04), BLUE, f"teacher\n{name}")
        pill(axis, left + 2.75, 7.54, "seg")
        axis.plot([left + 1.95, left + 1.95], [7.54, bus], color=BLUE, linewidth=2)
        arrow(axis, [(left + 2.2, 6.5), (left + 2.2, 5.72)], BLUE, soft=True)
    arrow(axis, [(TEACHERS["FLAIR"] + 1.95, bus), (11.95, bus), (11.95, 7.54)], BLUE)
    axis.text(
        7.2,
        bus + 0.2,
        "features at ½ resolution, through which the fusion also trains the teachers",
        ha="center",
        va="center",
        fontsize=13,
        color=INK,
    )
    box(axis, (10.6, 6.5, 2.7, 1.04), PINK, "fusion\n(CDSFL)")
    pill(axis, 12.95, 7.54, "0.08 seg")
    text = r"confidence $w_i$: grows with the teacher's whole-tumour Dice"
    box(axis, (1.9, 5.1, 8.1, 0.62), BLUE, text, 14)


def draw_student(axis: Axes, shown: dict[str, np.ndarray]) -> None:
    """The student with its two heads, and the soft targets that reach them."""
    picture(axis, shown["t1ce"], 0.5, 3.1, "T1ce")
    arrow(axis, [(1.65, 3.68), (2.0, 3.68)], GREY)
    box(axis, (2.0, 3.05, 11.3, 1.25), ORANGE)
    axis.text(3.3, 3.68, "student", ha="center", va="center", fontsize=17, color=INK, fontweight="bold")
    for left, name, mark in (
        (4.75, "logits at full resolution", "0.75 seg"),
        (9.25, "logits at ½ resolution", "0.07 seg"),
    ):
        width = 3.6
        axis.add_patch(
            FancyBboxPatch((left, 3.32), width, 0.68, boxstyle="round,pad=0,rounding_size=0.1", fc="white", ec=ORANGE)
        )
        axis.text(left + width / 2, 3.66, name, ha="center", va="center", fontsize=14, color=INK)
        pill(axis, left + width - 0.1, 3.3, mark)
    arrow(axis, [(5.95, 5.1), (5.95, 4.0)], BLUE, soft=True)
    axis.text(6.1, 4.68, r"$\Sigma\, w_i$ kd", va="center", fontsize=15, color=INK)
    arrow(axis, [(11.95, 6.5), (11.95, 4.0)], PINK, soft=True)
    axis.text(12.1, 5.25, "0.03 kd", va="center", fontsize=15, color=INK)


def draw_legend(axis: Axes) -> None:
    """What the marks mean."""
    pill(axis, 0.98, 2.5, "seg")
    axis.text(1.42, 2.5, "loss against labels", va="center", fontsize=13.5, color=INK)
    axis.plot([4.6, 5.4], [2.5, 2.5], color=GREY, linewidth=2, linestyle=SOFT)
    text = "kd: soft targets, which send no gradient back"
    axis.text(5.55, 2.5, text, va="center", fontsize=13.5, color=INK)


def draw_inference(axis: Axes, shown: dict[str, np.ndarray]) -> None:
    """What is kept: T1ce, the student, a label map."""
    picture(axis, shown["t1ce"], 3.2, 0.3, "T1ce")
    arrow(axis, [(4.35, 0.88), (5.3, 0.88)], GREY)
    box(axis, (5.3, 0.38, 2.2, 1.0), ORANGE, "student", 17)
    arrow(axis, [(7.5, 0.88), (8.45, 0.88)], GREY)
    picture(axis, shown["label"], 8.45, 0.3, "label map")
    axis.text(10.1, 0.88, "The student is kept.\nTeachers and fusion are not.", va="center", fontsize=14, color=INK)


def draw(folder: Path) -> None:
    """Write method.png and method.svg into a folder; the same files each time."""
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "method", "font.family": "DejaVu Sans", "svg.fonttype": "path"})
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    axis = figure.add_axes((0, 0, 1, 1))
    panel(axis, (0.05, 2.1, WIDTH - 0.1, HEIGHT - 2.15), "#FFFFFF", "Training: four networks learn at the same time")
    panel(axis, (0.05, 0.05, WIDTH - 0.1, 1.95), "#FFFAEF", "Inference")
    shown = slices()
    draw_teachers(axis, shown)
    draw_student(axis, shown)
    draw_legend(axis)
    draw_inference(axis, shown)
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axis.axis("off")
    figure.savefig(folder / "method.svg", transparent=True, metadata={"Date": None})
    figure.savefig(folder / "method.png", transparent=True, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
