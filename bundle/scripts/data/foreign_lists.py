"""Datalists of other tools: MONAI's BraTS folds and MSD's dataset.json become ours where they hold what is needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from scripts.documents import check_form
from scripts.errors import UserError
from scripts.files import read_json
from scripts.folders.schemes import patient_of
from scripts.folders.task_folders import class_named
from scripts.labels import BRATS_2018, BRATS_2023, CLASSES, ENDINGS, ENDINGS_2023, SEQUENCES

__all__ = ["read_datalist"]

logger = logging.getLogger(__name__)

PATHS = ("image", *SEQUENCES, "label")
CHANNELS = {f"{name}?": int for name in SEQUENCES}
OWN = {"case": str, **{f"{name}?": str for name in (*PATHS, "patient")}, "image": str, "channels?": CHANNELS}
TRAINING = OWN | {"fold?": int}
MADE = "make one of its folder: python -m scripts datalist --dataset_dir DIR --output FILE"


def read_datalist(datalist: str, folds: bool = True) -> dict[str, Any]:
    """A datalist in our form: ``labels``, ``training`` and ``testing``.

    Args:
        datalist: a file as written by python -m scripts datalist, MONAI's folds of BraTS, or MSD's dataset.json.
        folds: whether labelled cases need a fold.

    Raises:
        UserError: if it is none of these, lacks what is needed, or names a file or case outside the given folders.
    """
    document, source = read_json(datalist, "datalist"), f"datalist {datalist}"
    if "channel_names" in document:
        raise UserError(f"{source} is nnU-Net's dataset.json, which names no case: {MADE}.")
    check_form(document, {"training?": [dict], "testing?": [dict], "labels?": dict}, source)
    entries = document.get("training", [])
    if any(isinstance(entry.get("image"), list) for entry in entries):
        document = from_monai(document, source)
    elif "modality" in document and any("case" not in entry for entry in entries):
        document = from_msd(document, source)
    if folds and any("label" in entry and "fold" not in entry for entry in document.get("training", [])):
        raise UserError(f"{source} has labelled cases without fold, which training and evaluation need: {MADE}.")
    check_form(document, {"labels?": dict, "training?": [TRAINING], "testing?": [OWN]}, source)
    check_names(document, source)
    check_uses(document, source)
    return document


def check_uses(document: Mapping[str, Any], source: str) -> None:
    """Raises UserError if a file has two roles, or belongs to two cases."""
    uses: dict[PureWindowsPath, str] = {}
    for entry in [*document.get("training", []), *document.get("testing", [])]:
        for key in [key for key in PATHS if key in entry]:
            use = f"{'4-D image' if 'channels' in entry and key != 'label' else key} of {entry['case']}"
            if (other := uses.setdefault(PureWindowsPath(entry[key]), use)) != use:
                raise UserError(f"{source}: {entry[key]} is {other}, and {use}: give each its own file.")


def check_names(document: Mapping[str, Any], source: str) -> None:
    """Check that paths stay in dataset_dir, and files named after cases in output_dir, on any system.

    Raises:
        UserError: names the entry, for such a path or name, a case that is listed twice, or channels that do not fit.
    """
    places: dict[str, str] = {}
    for part, index, entry in [(p, i, e) for p in ("training", "testing") for i, e in enumerate(document.get(p, []))]:
        case, place = entry["case"], f"{part}::{index}"
        if case in (".", "..") or "\0" in case or not case or PureWindowsPath(case).name != case:
            raise UserError(
                f"{source}: {place}::case is {case!r}, expected a name without slashes: files are named so."
            )
        if case in places:
            raise UserError(f"{source}: {places[case]} and {place} are both case {case!r}: give each its own name.")
        places[case] = place
        for key in PATHS:
            path = PureWindowsPath(entry.get(key, ""))
            if path.anchor or ".." in path.parts or "\0" in str(path):
                raise UserError(
                    f"{source}: {place}::{key} of {case} is {entry[key]!r}, expected a path below dataset_dir."
                )
        channels, needed = entry.get("channels", {}), {"t1ce", *SEQUENCES} & {"t1ce", *entry}
        if channels and (needed - {*channels} or sorted(channels.values()) != list(range(len(channels)))):
            raise UserError(
                f"{source}: {place}::channels of {case} is {channels}, expected {sorted(needed)} from 0 on: {MADE}."
            )


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
            if (role := ENDINGS.get(ending.lower())) not in SEQUENCES or role in files:
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
    names = [str(document["modality"].get(str(index))).lower() for index in range(len(document["modality"]))]
    roles = [ENDINGS.get(name) or ENDINGS.get(name.removesuffix("w")) for name in names]
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
