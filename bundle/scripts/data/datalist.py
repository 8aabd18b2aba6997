"""Read a datalist of ours, or of another tool, and check what it says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from scripts.data.foreign_lists import MADE, from_monai, from_msd
from scripts.documents import check_form
from scripts.errors import UserError
from scripts.files import read_json
from scripts.labels import SEQUENCES

PATHS = ("image", *SEQUENCES, "label")
CHANNELS = {f"{name}?": int for name in SEQUENCES}
OWN = {"case": str, **{f"{name}?": str for name in (*PATHS, "patient")}, "image": str, "channels?": CHANNELS}
TRAINING = OWN | {"fold?": int}


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
    elif "modality" in document and entries and not any("case" in entry for entry in entries):
        document = from_msd(document, source)
    if folds and any("label" in entry and "fold" not in entry for entry in document.get("training", [])):
        raise UserError(f"{source} has labelled cases without fold, which training and evaluation need: {MADE}.")
    check_form(document, {"labels?": dict, "training?": [TRAINING], "testing?": [OWN]}, source)
    check_names(document, source)
    check_spelling(document, source)
    check_uses(document, source)
    return document


def listed(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every entry of a datalist with its place, such as training::0."""
    parts = ((part, document.get(part, [])) for part in ("training", "testing"))
    return [(f"{part}::{index}", entry) for part, entries in parts for index, entry in enumerate(entries)]


def check_spelling(document: Mapping[str, Any], source: str) -> None:
    """Raises UserError for one of our keys in capitals, or a misspelt label: a patient would count as without it."""
    known = {key.removesuffix("?") for key in TRAINING}
    for place, entry in listed(document):
        for key in entry.keys() - known:
            near = {key.lower()} & known or difflib.get_close_matches(key.lower(), {"label"} - entry.keys(), 1, 0.8)
            if meant := next(iter(near), ""):
                raise UserError(f"{source}: {place} has a key {key!r}, expected {meant!r}: correct it.")


def check_uses(document: Mapping[str, Any], source: str) -> None:
    """Raises UserError if a file has two roles, or belongs to two cases."""
    uses: dict[PureWindowsPath, str] = {}
    for _, entry in listed(document):
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
    for place, entry in listed(document):
        case = entry["case"]
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
