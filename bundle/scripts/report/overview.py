"""Evaluated runs side by side: a table of their Dice, and a picture of one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scripts.errors import UserError
from scripts.evaluation.patients import mean_of, patients_text
from scripts.evaluation.run_paths import named_runs
from scripts.evaluation.same_rules import check_same_rules
from scripts.evaluation.summary import Scores
from scripts.files import check_output, format_table, replacing
from scripts.labels import CLASS_COLOURS, CLASSES, TABLE_ORDER
from scripts.report.layers import Patient, read_patient
from scripts.report.pictures import grey_rgb, overlay, plane
from scripts.report.run_folder import open_run
from scripts.report.run_tables import median_of, order_by_dice

HEIGHT = 330  # pixels of a panel


def overview(runs: str, picture: str, case: str | None = None) -> None:
    """Show several evaluated runs side by side: mean Dice, and one patient's label maps.

    Args:
        runs: NAME=DIR,NAME=DIR with the output folders of evaluations, cross-validations, or predictions with scores.
        picture: the PNG to write.
        case: the case to draw; by default the one with the median whole-tumour Dice in the first run.

    Raises:
        UserError: if runs has another form, a run has no scores, the runs have no case in common, or the case is not
            in them.
    """
    folders = named_runs(runs)
    check_output(picture, "picture", ".png")
    opened = {name: open_run(folder) for name, folder in folders.items()}
    if unscored := [folders[name] for name, run in opened.items() if not run.tables]:
        raise UserError(f"run {unscored[0]} has no scores of its patients: score it first (python -m scripts score).")
    scores = {name: run.tables[0] for name, run in opened.items()}
    common = sorted(set.intersection(*(set(run.cases) for run in opened.values())))
    if not common:
        raise UserError(f"the runs {list(folders)} have no case in common: evaluate them on the same fold.")
    first = next(iter(opened.values()))
    chosen = case or median_of(order_by_dice(first.tables[0], common) or common)
    if chosen not in common:
        raise UserError(f"case is {chosen!r}, expected one of {common}.")
    check_same_rules(list(scores.values()))
    print(f"Volumetric Dice, mean of {patients_text(common, first.patient)} ({first.tables[0].empty_rule_meaning}):\n")
    print(dice_table(scores, common))
    titles = {name: f"{name}: WT Dice {table.values[chosen, 'WT']['dice']:.2f}" for name, table in scores.items()}
    maps = {titles[name]: run.prediction(chosen) for name, run in opened.items()}
    draw(read_patient(first.cases[chosen], maps, first.truth(chosen)), picture)
    print(f"\n{chosen} is drawn in {picture}.")


def dice_table(scores: Mapping[str, Scores], cases: Sequence[str]) -> str:
    """Mean Dice of each run by region, and over the regions."""
    rows = [["student", *TABLE_ORDER, "mean"]]
    for name, table in scores.items():
        means = [mean_of(table.column(region, "dice", cases)) for region in TABLE_ORDER]
        rows.append([name, *(f"{value:.3f}" for value in [*means, float(np.mean(means))])])
    return format_table(rows)


def draw(patient: Patient, picture: str) -> None:
    """Draw the axial slice with the most tumour of all label maps: the input, then truth and predictions on it.

    As in the report, pixels are square in millimetres, and the patient's left is on the right.
    """
    maps = {layer.title: layer.voxels for layer in patient.layers if layer.kind == "classes"}
    truth = {"ground truth": maps.pop("Truth")} if "Truth" in maps else {}
    thin = [patient.centre[2]]
    grey = patient.grey.take(thin, 2)
    panels = {"Input": grey_rgb(grey)}
    panels |= {title: overlay(grey, label.take(thin, 2), CLASS_COLOURS) for title, label in (truth | maps).items()}
    figure = Figure(figsize=(3.2 * len(panels), 3.9), layout="constrained")
    for axis, (title, pixels) in zip(figure.subplots(1, len(panels)), panels.items()):
        axis.imshow(plane(pixels, 2, 0, patient.spacing, HEIGHT))
        axis.set_title(title, fontsize=10, parse_math=False)  # names may hold a $
        axis.axis("off")
    patches = [Patch(color=colour, label=CLASSES[value]) for value, colour in CLASS_COLOURS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    with replacing(Path(picture)) as partial:
        figure.savefig(partial, dpi=110)
