"""Evaluated runs side by side: a table of their Dice, and a picture of one case.

python -m scripts overview --dataset_dir DIR --runs distilled=OUT_A,alone=OUT_B --picture FILE [--case NAME]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scripts.data.cases import Case, find_cases
from scripts.errors import UserError
from scripts.evaluation.compare import check_same_rules
from scripts.evaluation.pairs import class_of_value
from scripts.evaluation.summary import Scores, mean_of, read_scores
from scripts.files import check_output, format_table, named_runs, replacing
from scripts.labels import CLASS_COLOURS, CLASSES, EMPTY_RULES, TABLE_ORDER
from scripts.report.images import read_classes, read_image
from scripts.report.layers import scale_brightness
from scripts.report.pictures import grey_rgb, overlay
from scripts.report.run_folder import run_record

__all__ = ["overview"]


def overview(dataset_dir: str, runs: str, picture: str, case: str | None = None) -> None:
    """Show several evaluated runs side by side: mean Dice, and one patient's label maps.

    Args:
        dataset_dir: the folder of the patients.
        runs: NAME=DIR,NAME=DIR with the output folders of evaluations (metrics.csv and NAME_seg.nii.gz).
        picture: the PNG to write.
        case: the case to draw; by default the one with the median whole-tumour Dice in the first run.

    Raises:
        UserError: if runs has another form, a run has no metrics.csv, the runs have no case in common, or the case is
            not in them or not among the patients.
    """
    folders = {name: Path(folder) for name, folder in named_runs(runs).items()}
    check_output(picture, "picture", ".png")
    scores = {name: read_scores(folder) for name, folder in folders.items()}
    common = sorted(set.intersection(*(set(table.cases) for table in scores.values())))
    if not common:
        raise UserError(f"the runs {list(folders)} have no case in common: evaluate them on the same fold.")
    first = next(iter(scores.values()))
    chosen = case or sorted(common, key=lambda name: first.values[name, "WT"]["dice"])[len(common) // 2]
    if chosen not in common:
        raise UserError(f"case is {chosen!r}, expected one of {common}.")
    check_same_rules(list(scores.values()))
    print(f"Volumetric Dice, mean of {len(common)} cases ({EMPTY_RULES[first.empty_rule]}):\n")
    print(dice_table(scores, common))
    found = {item.name: item for item in find_cases(dataset_dir)}
    if chosen not in found:
        raise UserError(f"dataset_dir {dataset_dir} holds no case {chosen}, but the runs do: give their dataset_dir.")
    if lacking := " and no ".join(sorted({"t1ce", "label"} - found[chosen].files.keys())):
        raise UserError(f"case {chosen} of {dataset_dir} has no {lacking}: give the folder that has it.")
    titles = {name: f"{name}: WT Dice {table.values[chosen, 'WT']['dice']:.2f}" for name, table in scores.items()}
    draw(found[chosen], {titles[name]: folder / f"{chosen}_seg.nii.gz" for name, folder in folders.items()}, picture)
    print(f"\n{chosen} is drawn in {picture}.")


def dice_table(scores: Mapping[str, Scores], cases: Sequence[str]) -> str:
    """Mean Dice of each run by region, and over the regions."""
    rows = [["student", *TABLE_ORDER, "mean"]]
    for name, table in scores.items():
        means = [mean_of(table.column(region, "dice", cases)) for region in TABLE_ORDER]
        rows.append([name, *(f"{value:.3f}" for value in [*means, float(np.mean(means))])])
    return format_table(rows)


def draw(case: Case, predictions: Mapping[str, Path], picture: str) -> None:
    """Draw the axial slice with the most tumour: T1ce, then truth and predictions on it, side by side.

    As in the report, the patient's left is on the right.
    """
    image = read_image(case.files["t1ce"], case.channels.get("t1ce"))
    truth_values = class_of_value(case.label_values or None)
    classes = {"ground truth": read_classes(case.files["label"], truth_values)}
    for title, path in predictions.items():
        record = run_record(path.parent)
        classes[title] = read_classes(path, class_of_value(record.get("label_values")) if record else truth_values)
    index = int((classes["ground truth"] > 0).sum(axis=(0, 1)).argmax())
    grey = scale_brightness(image)[:, :, index]
    panels = {"T1ce": grey_rgb(grey)}
    panels |= {title: overlay(grey, label[:, :, index], CLASS_COLOURS) for title, label in classes.items()}
    figure = Figure(figsize=(3.2 * len(panels), 3.9), layout="constrained")
    for axis, (title, pixels) in zip(figure.subplots(1, len(panels)), panels.items()):
        axis.imshow(np.fliplr(np.rot90(pixels)))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    patches = [Patch(color=colour, label=CLASSES[value]) for value, colour in CLASS_COLOURS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    with replacing(Path(picture)) as partial:
        figure.savefig(partial, dpi=110)
