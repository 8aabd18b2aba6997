"""Cases of folders that a dataset.json describes: MSD Task01 and nnU-Net's raw data sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.files import read_json
from scripts.folders.case import Case
from scripts.folders.folder_files import FolderFiles
from scripts.folders.schemes import read_name, strip_suffix
from scripts.labels import CLASSES, ENDINGS, MSD, SEQUENCES, sequence_named

IMAGE_FOLDERS = ("imagesTr", "imagesTs")
CHANNEL = r"(.+)_(\d{4})"  # nnU-Net: CASE_0000 is the first channel of CASE
LABELS = {  # class, or region of classes, by the names in dataset.json; the first pattern that fits counts
    "background": "background|bg|0",
    "WT": r"whole.?tumou?r|wt",
    "TC": r"tumou?r.?core|tc",
    "NCR": r".*(necro|ncr|netc|non.?enh).*|net|net_ncr|ncr_net",
    "ET": r".*enhanc.*|et",
    "ED": r".*(o?edema|snfh|flair).*|ed",
}


def find_task(root: Path, files: FolderFiles) -> Path | None:
    """The folder that holds imagesTr or imagesTs of a data set: the given one or the one above it; None if none does.

    Images whose names say a sequence are no such data set.
    """
    folder = root if any((root / name).is_dir() for name in IMAGE_FOLDERS) else None
    if root.absolute().name in IMAGE_FOLDERS and (root.parent / "dataset.json").is_file():
        folder = root.parent
    images = [path for path in files.volumes if path.parent.name in IMAGE_FOLDERS]
    return folder if images and all(read_name(path).role in ("", "other") for path in images) else None


def read_task(task: Path, files: FolderFiles, labelled: bool = True) -> list[Case]:
    """Cases of a data set with imagesTr and imagesTs, from its files; what no case takes is left out.

    ``labelled`` asks for the labels as well: dataset.json must then say what their values mean.

    Raises:
        UserError: if dataset.json does not say what the channels and labels are, or the folder also holds cases of
            another kind.
    """
    spec = read_json(str(task / "dataset.json"), "dataset_dir") if (task / "dataset.json").is_file() else {}
    images = [path for path in files.volumes if path.parent.name in IMAGE_FOLDERS]
    labels = by_stem([path for path in files.volumes if path.parent.name == "labelsTr"])
    stems = by_stem(images)
    numbered = all(re.fullmatch(CHANNEL, stem) for stem in stems) and not set(stems) & set(labels)
    others = [path for path in files.volumes if path.parent.parent.absolute() != task.absolute()]
    if strange := [path for path in others if read_name(path).role not in ("", "other")]:
        raise UserError(
            f"{task} holds two kinds of data set: {images[0]} and {strange[0]}. Give each its own dataset_dir."
        )
    numbered = numbered or "channel_names" in spec
    if numbered and not spec:
        raise UserError(f"{task / 'dataset.json'} is missing: nnU-Net says there what channels and labels are. Add it.")
    values: tuple[int, ...] = () if numbered else MSD
    if labelled and (task / "labelsTr").is_dir() and (numbered or "labels" in spec):
        values = nnunet_values(part(spec, "labels", task), task / "dataset.json")
    cases = nnunet_cases(task, spec, images, files, values) if numbered else msd_cases(task, spec, images, values)
    for case in cases:
        if case.name in labels:
            case.files["label"] = labels[case.name]
    used = {path for case in cases for path in case.files.values()} | {path for path, _ in files.left_out}
    for path in files.volumes:
        if path not in used:
            files.leave_out(path, f"no image or label of a case of {task.name}")
    return cases


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """Path by name without suffix. Raises UserError if two have one name."""
    found: dict[str, Path] = {}
    for path in paths:
        if (stem := strip_suffix(path)) in found:
            raise UserError(f"{found[stem]} and {path} are of one name: keep one.")
        found[stem] = path
    return found


def part(spec: Mapping[str, Any], key: str, task: Path) -> dict[str, Any]:
    """A mapping of dataset.json; empty if it has none. Raises UserError if it has another form."""
    value = spec.get(key, {})
    form = isinstance(value, dict) and (key == "labels" or all(str(index).isdecimal() for index in value))
    if not form or (key == "labels" and re.search("[^0-9]", "".join(map(str, leaves(value))))):
        expected = '{"background": 0, ...}' if key == "labels" else '{"0": "T1", "1": "T1ce", ...}'
        raise UserError(f"{task / 'dataset.json'}: {key} is {value!r}, expected {expected}.")
    return value


def leaves(labels: Mapping[str, Any]) -> list[Any]:
    """All values of labels: numbers, or names in version 1, which are not returned."""
    if all(str(key).isdigit() for key in labels):
        return []
    return [item for value in labels.values() for item in (value if isinstance(value, list) else [value])]


def msd_cases(task: Path, spec: Mapping[str, Any], images: list[Path], values: tuple[int, ...]) -> list[Case]:
    """Cases of MSD Task01: each image is 4-D; channel order from dataset.json if there is one."""
    modalities = part(spec, "modality", task) or {str(index): name for index, name in enumerate(SEQUENCES)}  # Task01
    known = [(role, int(index)) for index, name in modalities.items() if (role := sequence_named(name))]
    if sorted(role for role, _ in known) != sorted(SEQUENCES):
        raise UserError(
            f"{task / 'dataset.json'}: modality is {modalities}, expected FLAIR, T1w, t1gd and T2w, once each."
        )
    channels = dict(known)
    return [
        Case(strip_suffix(path), dict.fromkeys(channels, path), dict(channels), path.parent.name, "msd", values, "MSD")
        for path in images
    ]


def nnunet_cases(
    task: Path, spec: Mapping[str, Any], images: list[Path], files: FolderFiles, values: tuple[int, ...]
) -> list[Case]:
    """Cases of an nnU-Net raw data set: a file for each channel, CASE_0000 the first one."""
    where = task / "dataset.json"
    names = part(spec, "channel_names", task) or part(spec, "modality", task)
    roles = {int(index): sequence_named(name) for index, name in names.items()}
    if "t1ce" not in roles.values() or len(set(roles.values())) < len(roles):
        raise UserError(
            f"{where}: channel_names is {dict(names)}, expected each sequence once, T1ce among them, by the names "
            f'{", ".join(key for key, role in ENDINGS.items() if role in SEQUENCES)}; or give --t1ce "*_0001.nii.gz".'
        )
    cases: dict[str, Case] = {}
    for path in images:
        match = re.fullmatch(CHANNEL, strip_suffix(path))
        role = roles.get(int(match[2])) if match else None
        if not match or not role:
            files.leave_out(path, "no channel of dataset.json")
            continue
        new = Case(match[1], {}, {}, path.parent.name, "nnunet", values, "nnU-Net")
        case = cases.setdefault(match[1], new)
        if role in case.files:
            raise UserError(f"{case.files[role]} and {path} are both the {role} of case {match[1]}: keep one.")
        case.files[role] = path
    return list(cases.values())


def class_named(name: str) -> str | None:
    """The class, or region WT or TC, that a name in a dataset.json means; None for other names."""
    return next((kind for kind, words in LABELS.items() if re.fullmatch(words, name.lower())), None)


def nnunet_values(labels: Mapping[str, Any], where: Path) -> tuple[int, ...]:
    """Value on disk of each network class, from the labels of a dataset.json: classes, or regions of BraTS."""
    if labels and all(str(key).isdigit() for key in labels):  # version 1: {"1": "edema"}
        labels = {str(name): int(value) for value, name in labels.items()}
    said: dict[str, set[int]] = {}
    for name, value in labels.items():
        kind = class_named(name) or name
        said[kind] = set(map(int, value if isinstance(value, (list, tuple)) else [value]))
    if {"WT", "TC"} <= set(said):
        said |= {"ED": said["WT"] - said["TC"], "NCR": said["TC"] - said.get("ET", set())}
    values = [said.get(name, set()) for name in CLASSES]
    known = {*CLASSES, "WT", "TC", "ignore"}
    if set(said) - known or any(len(value) != 1 for value in values) or len(set().union(*values)) != len(CLASSES):
        raise UserError(
            f"{where}: labels is {dict(labels)}, expected background, necrosis (NCR), edema (ED), enhancing (ET), or "
            "the regions whole tumor, tumor core and enhancing tumor: correct it, or give --label_values."
        )
    return tuple(value.pop() for value in values)
