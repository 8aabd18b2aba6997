"""Datalists of other tools: MONAI's BraTS folds and MSD's dataset.json become ours where they hold what is needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from scripts.documents import check_form
from scripts.errors import UserError
from scripts.folders.schemes import patient_of
from scripts.folders.task_folders import class_named
from scripts.labels import BRATS_2018, BRATS_2023, CLASSES, ENDINGS_2023, sequence_named

logger = logging.getLogger(__name__)

MADE = "make one of its folder: python -m scripts datalist --dataset_dir DIR --output FILE"


def from_monai(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Ours from MONAI's folds: ``{"fold", "image": [four files], "label"}``. File names say which sequence is which."""
    tests = {"testing?": [{"image": [str]}], "validation?": [{"image": [str]}]}
    check_form(document, {"training": [{"image": [str], "label?": str, "fold?": int}], **tests}, source)
    parts: dict[str, list] = {"training": [], "testing": []}
    endings: set[str] = set()
    for part, entry in [("training", entry) for entry in document["training"]] + [
        ("testing", entry) for key in ("testing", "validation") for entry in document.get(key, [])
    ]:
        files, names = {}, {}
        for path in entry["image"]:
            name, _, ending = PurePosixPath(path).name.partition(".")[0].replace("-", "_").rpartition("_")
            if not (role := sequence_named(ending)) or role in files:
                raise UserError(f"{source}: {path} ends in no sequence, or in one that its case has twice: {MADE}.")
            files[role], names[role] = path, name
            endings.add(ending.lower())
        if "t1ce" not in files:
            raise UserError(f"{source}: the case of {entry['image'] or 'no image'} has no T1ce: {MADE}.")
        case = PurePosixPath(files["t1ce"]).name.partition(".")[0][: len(names["t1ce"])]
        own = {"case": case, "patient": patient_of(case), "image": files.pop("t1ce"), **files}
        parts[part].append(own | {key: entry[key] for key in ("label", "fold") if key in entry})
    values = BRATS_2023 if endings <= set(ENDINGS_2023) else BRATS_2018
    logger.info(f"{source} is MONAI's. It names no labels: by its file names enhancing tumour is {values[-1]}.")
    return {"labels": {str(value): name for value, name in zip(values, CLASSES)}, **parts}


def from_msd(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Ours from MSD's dataset.json: one file with all sequences, which ``modality`` names, for each case."""
    form = {"modality": dict, "labels": dict, "training": [{"image": str, "label?": str, "fold?": int}]}
    check_form(document, form | {"test?": [(str, dict)]}, source)
    names = [str(document["modality"].get(str(index))) for index in range(len(document["modality"]))]
    roles = [sequence_named(name) for name in names]
    if "t1ce" not in roles or None in roles or len(set(roles)) < len(roles):
        raise UserError(
            f"{source}: modality names {names}, expected FLAIR, T1w, t1gd and T2w, t1gd among them: {MADE}."
        )
    labels = {}
    for value, name in document["labels"].items():
        labels[value] = class_named(str(name)) or name
    if sorted(map(str, labels.values())) != sorted(CLASSES):
        raise UserError(
            f"{source}: labels name {sorted(map(str, document['labels'].values()))}, of which not all have "
            f"a meaning here: {MADE}."
        )
    parts: dict[str, list] = {"training": [], "testing": []}
    tests = [{"image": entry} if isinstance(entry, str) else entry for entry in document.get("test", [])]
    check_form(tests, [{"image": str}], source, "test")
    for part, entry in [*(("training", e) for e in document["training"]), *(("testing", e) for e in tests)]:
        image = entry["image"]
        case = PurePosixPath(image).name.partition(".")[0]
        own: dict[str, Any] = {"case": case, "patient": patient_of(case), "image": image}
        if len(roles) > 1:
            own |= {str(role): image for role in roles if role != "t1ce"}
            own["channels"] = {str(role): index for index, role in enumerate(roles)}
        parts[part].append(own | {key: entry[key] for key in ("label", "fold") if key in entry})
    return {"labels": labels, **parts}
