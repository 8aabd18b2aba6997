"""From a datalist to checked entries, as MONAI's transforms take them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.checks import CaseReport, Fault, check_case, check_cases, duplicates, settle
from scripts.errors import UserError
from scripts.labels import BRATS_2018, CLASSES, SEQUENCES

__all__ = ["datalist_images", "label_values", "load_cases", "read_json"]

logger = logging.getLogger(__name__)


def read_json(path: str, key: str) -> dict:
    """Raises UserError if the file is missing or not a JSON mapping."""
    try:
        document = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{key} {path} cannot be read ({error.strerror}): give the path of a JSON file.") from error
    except ValueError as error:
        raise UserError(f"{key} {path} is not JSON ({error}): make it anew.") from error
    if not isinstance(document, dict):
        raise UserError(f"{key} {path} holds a {type(document).__name__}, expected a mapping.")
    return document


def label_values(datalist: str) -> list[int]:
    """Disk value of each network class, by the datalist's ``labels``; BraTS up to 2021 where there is no datalist."""
    if not datalist:
        return list(BRATS_2018)
    value_of = {name: int(value) for value, name in read_json(datalist, "datalist").get("labels", {}).items()}
    if set(value_of) != set(CLASSES):
        raise UserError(f"datalist {datalist}: labels name {sorted(value_of)}, expected {sorted(CLASSES)}.")
    return [value_of[name] for name in CLASSES]


def load_cases(
    datalist: str,
    dataset_dir: str,
    fold: int | None = 0,
    student_sequence: str | Sequence[str] = "t1ce",
    sequences: Sequence[str] = (),
    strict: bool = True,
    training: bool = True,
) -> dict[str, list[dict]]:
    """Checked cases of a datalist, as MONAI's transforms take them: absolute paths by key.

    Args:
        datalist: a file as written by scripts.datalist.
        dataset_dir: the folder that its paths are relative to.
        fold: the validation fold; the others are for training. None trains on every patient, and validates on these.
        student_sequence: what ``image`` holds; several names are stacked.
        sequences: further keys of the training cases, for the teachers.
        strict: stop at faulty files; False leaves their cases out and names them.
        training: False reads the validation cases only.

    Returns:
        ``training`` (image, the sequences, label) and ``validation`` (image, label); no case at all where neither
        datalist nor dataset_dir is given, as MONAI Label does, which brings its own.

    Raises:
        UserError: for a missing file, an unknown fold or sequence, or faulty data.
    """
    if not datalist and not dataset_dir:
        return {"training": [], "validation": []}
    if not dataset_dir or not Path(dataset_dir).is_dir():
        raise UserError(f"dataset_dir is {dataset_dir!r}, expected a folder that exists: pass --dataset_dir DIR.")
    student = [student_sequence] if isinstance(student_sequence, str) else list(student_sequence)
    if unknown := sorted({*student, *sequences} - set(SEQUENCES)):
        raise UserError(f"sequences {unknown} are unknown, expected some of {list(SEQUENCES)}.")
    chosen = [entry for entry in read_entries(datalist, fold, training) if training or fold in (None, entry["fold"])]
    needed = {entry["case"]: [*student, *sequences] if entry["fold"] != fold else student for entry in chosen}
    left_out = settle(find_faults(chosen, dataset_dir, needed, set(label_values(datalist))), strict)
    parts: dict[str, list[dict]] = {"training": [], "validation": []}
    for entry in chosen:
        if entry["case"] not in left_out:
            if entry["fold"] != fold:
                parts["training"].append(network_entry(entry, dataset_dir, student, sequences))
            if fold in (None, entry["fold"]):
                parts["validation"].append(network_entry(entry, dataset_dir, student, []))
    return parts


def find_faults(
    entries: Sequence[Mapping[str, Any]], dataset_dir: str, needed: Mapping[str, Sequence[str]], values: set[int]
) -> list[Fault]:
    """What is wrong with the files of each case (``needed`` and the label), and patients in two folds."""

    def check(index: int) -> CaseReport:
        entry = entries[index]
        roles = [*dict.fromkeys(needed[entry["case"]]), "label"]
        channels = len(entry.get("channels", {})) or 1
        return check_case(entry["case"], entry_files(entry, dataset_dir), roles, values, channels=channels)

    reports = check_cases(check, len(entries))
    rows = [
        (entry["case"], entry.get("patient", entry["case"]), entry["fold"], report.checksum)
        for entry, report in zip(entries, reports)
    ]
    return [fault for report in reports for fault in report.faults] + duplicates(rows)


def read_entries(datalist: str, fold: int | None, training: bool) -> list[dict[str, Any]]:
    """The labelled cases of a datalist that has the fold, and another one if there is to be training."""
    if not datalist:
        raise UserError("datalist is not given: make one with python -m scripts.datalist, then pass --datalist FILE.")
    entries = read_json(datalist, "datalist").get("training", [])
    if not entries:
        raise UserError(f"datalist {datalist} lists no labelled case under training: make it anew (scripts.datalist).")
    folds = sorted({entry["fold"] for entry in entries})
    if fold is None:
        logger.warning("fold is null: the scores in validation are those of training patients.")
    elif fold not in folds or (training and len(folds) < 2):
        raise UserError(
            f"fold is {fold!r}, expected one of {folds} (the folds of {datalist}), with another to train on."
        )
    return entries


def datalist_images(datalist: str, dataset_dir: str, sequence: str = "t1ce") -> list[dict[str, Any]]:
    """All cases of a datalist, labelled or not, as ``{"image": path, "case": name}``, unchecked.

    Raises:
        UserError: if the datalist cannot be read, or a case lacks the sequence.
    """
    document = read_json(datalist, "datalist")
    entries = [*document.get("training", []), *document.get("testing", [])]
    if lacking := [entry["case"] for entry in entries if sequence not in entry_files(entry, dataset_dir)]:
        raise UserError(f"datalist {datalist} names no {sequence} of {', '.join(lacking)}: make it anew.")
    return [network_entry(entry, dataset_dir, [sequence], [], labelled=False) for entry in entries]


def entry_files(entry: Mapping[str, Any], dataset_dir: str) -> dict[str, Path]:
    """Absolute path by sequence, and of the label; the datalist's ``image`` is T1ce."""
    roles = {"image": "t1ce"}
    return {
        roles.get(key, key): Path(dataset_dir, entry[key]) for key in ("image", *SEQUENCES, "label") if key in entry
    }


def network_entry(
    entry: Mapping[str, Any],
    dataset_dir: str,
    student: Sequence[str],
    sequences: Sequence[str],
    labelled: bool = True,
) -> dict[str, Any]:
    files = entry_files(entry, dataset_dir)
    images = [str(files[name]) for name in student]
    data: dict[str, Any] = {"case": entry["case"], "image": images[0] if len(images) == 1 else images}
    data |= {name: str(files[name]) for name in sequences}
    if labelled:
        data["label"] = str(files["label"])
    if channels := entry.get("channels"):
        data["channels"] = {"image": [channels[name] for name in student]} | {
            name: channels[name] for name in sequences
        }
    return data
