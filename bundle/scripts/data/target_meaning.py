"""Compare another program's predictions with labels: do their values and volumes mean what they are taken for?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import nibabel as nib
import numpy as np
import torch

from scripts.data.volumes import count_pairs, whole_numbers
from scripts.errors import UserError
from scripts.labels import CLASSES, LABEL_VALUES, REGION_NAMES, TARGETS
from scripts.variants.regions import regions_to_classes

logger = logging.getLogger(__name__)

COMPARED = 5  # patients
CLEARLY = 0.2  # of Dice, the mean of NCR, ED and ET
PRESENT = "as now"  # the name of the present way to read predictions
ALIKE = 0.1  # Dice of whole tumour; predictions of other patients, or mirrored ones, have less


def check_meaning(
    entries: Iterable[Mapping[str, Any]], label_values: Sequence[int], classes: Mapping[int, int]
) -> None:
    """Compare another program's predictions with the labels, in patients that have both; warns where nobody has.

    Args:
        entries: as the network takes them.
        label_values: value of each network class in the labels.
        classes: network class of each value in label maps.

    Raises:
        UserError: if the values of a known edition, or another order of the volumes, fit much better.
    """
    taught = [entry for entry in entries if TARGETS in entry]
    pairs = [(entry["label"], entry[TARGETS]) for entry in taught if "label" in entry]
    if taught and not pairs:
        logger.warning(
            "No patient has a label and a prediction in targets, so their meaning cannot be checked. Values of label "
            f"maps: {shown(classes)}. Volumes of probabilities: {', '.join(CLASSES)}, or {', '.join(REGION_NAMES)}."
        )
    counts: dict[int, dict[str, np.ndarray]] = {}  # by number of volumes
    first: dict[int, str] = {}
    for label, path in pairs[:COMPARED]:
        truth, volumes = tumour_voxels(label, path, label_values)
        first.setdefault(len(volumes), path)
        tables = counts.setdefault(len(volumes), {})
        for reading, found in readings(volumes, classes):
            tables[reading] = tables.get(reading, 0) + count_pairs(truth, found)
    for number, tables in counts.items():
        compare_readings(tables, first[number], "target_values" if number == 1 else "targets")


def shown(classes: Mapping[int, int]) -> str:
    """The meaning of values, as text: 1 NCR, 2 ED, 4 ET."""
    return ", ".join(f"{value} {CLASSES[index]}" for value, index in sorted(classes.items()) if index)


def tumour_voxels(label: str, path: str, label_values: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Network classes (N,) and predicted values or probabilities (V, N), where either shows tumour."""
    values, predicted = (np.asanyarray(nib.load(file).dataobj) for file in (label, path))
    values = values.reshape(values.shape[:3])
    volumes = np.moveaxis(predicted.reshape(*values.shape, -1), -1, 0)
    volumes = whole_numbers(volumes) if len(volumes) == 1 else volumes
    tumour = (volumes[1:] if len(volumes) == len(CLASSES) else volumes).max(axis=0) >= 0.5
    truth = read_as(whole_numbers(values), {value: index for index, value in enumerate(label_values)})
    either = tumour | (truth > 0)
    return truth[either], volumes[:, either]


def readings(volumes: np.ndarray, classes: Mapping[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Network classes of predictions (V, N) by each way to read them: the present one, then others by name."""
    if len(volumes) == 1:
        for name, meaning in {PRESENT: classes, **LABEL_VALUES}.items():
            yield name, read_as(volumes[0], meaning)
        return
    names = REGION_NAMES if len(volumes) == len(REGION_NAMES) else CLASSES[1:]
    before = len(volumes) - len(names)  # volumes of background
    for order in permutations(range(len(names))):
        moved = volumes[[*range(before), *(before + place for place in order)]]
        likely = moved if before else regions_to_classes(torch.as_tensor(moved, dtype=torch.float32)).numpy()
        said = [names[order.index(place)] for place in range(len(names))]  # of the volumes as they are in the file
        name = ", ".join([*CLASSES[:before], *said])
        yield PRESENT if [*order] == sorted(order) else name, likely.argmax(axis=0)


def read_as(values: np.ndarray, meaning: Mapping[int, int]) -> np.ndarray:
    """Network classes of values; those without a meaning are background."""
    found = np.zeros(values.shape, np.int64)
    for value, index in meaning.items():
        found[values == value] = index
    return found


def compare_readings(tables: Mapping[str, np.ndarray], path: str, key: str) -> None:
    """Raises UserError if another reading fits the labels much better; warns if the tumour lies elsewhere."""
    read = tables[PRESENT]
    if 2 * read[1:, 1:].sum() < ALIKE * (read[1:].sum() + read[:, 1:].sum()):
        logger.warning(
            f"targets: the predictions, such as {path}, hardly overlap with the labels (Dice of whole tumour below "
            f"{ALIKE}): are they mirrored, empty, or of other patients?"
        )
    dice = {reading: mean_dice(table) for reading, table in tables.items() if table[:, 1:].any(axis=0).all()}
    own, best = mean_dice(read), max(dice.values(), default=0)
    if best > own + CLEARLY:
        names = " or ".join(reading for reading, value in dice.items() if value == best)
        if key == "target_values":
            remedy = f"with --target_values {names}: give that"
        else:
            remedy = f"if its volumes are {names}: write them in the order of docs/gaps.md"
        values = f"a mean Dice of {own:.2f} with the labels, and {best:.2f}"
        raise UserError(f"{key}: the predictions, such as {path}, have {values} {remedy}.")


def mean_dice(table: np.ndarray) -> float:
    """Mean Dice of NCR, ED and ET, from voxels by true and predicted class."""
    sizes = table.sum(axis=0) + table.sum(axis=1)
    return float(np.mean(2 * np.diag(table)[1:] / np.maximum(sizes[1:], 1)))
