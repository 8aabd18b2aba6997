"""Evaluated runs side by side: a table of their Dice, and a picture of one case.

python -m scripts.overview --dataset_dir DIR --runs distilled=OUT_A,alone=OUT_B --picture FILE [--case NAME]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from scripts.cases import Case, find_cases
from scripts.command import run_command
from scripts.errors import UserError
from scripts.labels import CLASSES, MSD
from scripts.mosaic import classes_of
from scripts.records import check_output, named_runs
from scripts.report import class_of_value, run_record
from scripts.score import BRATS_VALUES
from scripts.summary import read_scores

__all__ = ["overview"]

REGION_ORDER = ("WT", "TC", "ET")
COLOURS = ("#0072B2", "#E69F00", "#CC79A7")  # NCR, ED, ET; apart for colour-blind readers (Okabe and Ito)


def overview(dataset_dir: str, runs: str, picture: str, case: str | None = None) -> None:
    """Print mean volumetric Dice of each run, and draw T1ce, truth and each run's label map.

    Args:
        dataset_dir: the patients.
        runs: NAME=DIR,NAME=DIR: the output folders of evaluations (metrics.csv and NAME_seg.nii.gz).
        picture: the PNG to write.
        case: the case to draw; by default that with the median whole-tumour Dice of the first run.

    Raises:
        UserError: if runs is not as above, a run has no metrics.csv, the runs have no case in common, or the case is
            not in them or not among the patients.
    """
    folders = {name: Path(folder) for name, folder in named_runs(runs).items()}
    check_output(picture, "picture", ".png")
    scores = {name: dice_of(folder) for name, folder in folders.items()}
    common = sorted(set.intersection(*({scored for scored, _ in table} for table in scores.values())))
    if not common:
        raise UserError(f"the runs {list(folders)} have no case in common: evaluate them on the same fold.")
    first = next(iter(scores.values()))
    chosen = case or sorted(common, key=lambda name: first[name, "WT"])[len(common) // 2]
    if chosen not in common:
        raise UserError(f"case is {chosen!r}, expected one of {common}.")
    print(f"Volumetric Dice, mean of {len(common)} cases (a region empty in truth and prediction counts 1):\n")
    print(f"{'student':<24}" + "".join(f"{region:>8}" for region in REGION_ORDER) + f"{'mean':>8}")
    for name, table in scores.items():
        means = [np.nanmean([table[scored, region] for scored in common]) for region in REGION_ORDER]
        print(f"{name:<24}" + "".join(f"{value:8.3f}" for value in [*means, np.mean(means)]))
    found = {item.name: item for item in find_cases(dataset_dir)}
    if chosen not in found:
        raise UserError(f"dataset_dir {dataset_dir} holds no case {chosen}, which the runs have: give theirs.")
    titles = {name: f"{name}: WT Dice {table[chosen, 'WT']:.2f}" for name, table in scores.items()}
    draw(found[chosen], {titles[name]: folder / f"{chosen}_seg.nii.gz" for name, folder in folders.items()}, picture)
    print(f"\n{chosen} is drawn in {picture}.")


def dice_of(run: Path) -> dict[tuple[str, str], float]:
    return {key: metrics["dice"] for key, metrics in read_scores(run).values.items()}


def draw(case: Case, predictions: Mapping[str, Path], picture: str) -> None:
    """The axial slice with most tumour: T1ce, truth and predictions on it, side by side."""
    image = read(case.files["t1ce"])
    image = image[..., case.channels["t1ce"]] if image.ndim == 4 else image
    truth_values = {value: index for index, value in enumerate(MSD)} if case.edition == "msd" else BRATS_VALUES
    classes = {"ground truth": classes_of(read(case.files["label"]), truth_values)}
    for title, path in predictions.items():
        about = run_record(path.parent)
        classes[title] = classes_of(read(path), class_of_value(about) if about else truth_values)
    index = int((classes["ground truth"] > 0).sum(axis=(0, 1)).argmax())
    panels: dict[str, np.ndarray | None] = {"T1ce": None, **classes}
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.7), layout="constrained")
    for axis, (title, label) in zip(axes, panels.items()):
        axis.imshow(np.rot90(image[:, :, index]), cmap="gray", vmax=np.percentile(image[image > 0], 99.5))
        if label is not None:
            shown = np.ma.masked_equal(np.rot90(label[:, :, index]), 0)
            axis.imshow(shown, cmap=ListedColormap(COLOURS), vmin=1, vmax=3, alpha=0.6)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, CLASSES[1:])]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


if __name__ == "__main__":
    run_command(overview)
