"""Files of a datalist's entries, as networks need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.data.datalist import listed, read_datalist
from scripts.errors import UserError
from scripts.faults import fault_of, report_lacking
from scripts.folders.schemes import patient_of
from scripts.labels import SEQUENCES, TARGETS


def check_files_are_there(entries: Sequence[Mapping[str, Any]], dataset_dir: str) -> None:
    """Raises UserError if there is no such folder, or no file of these entries in it can be read."""
    if (fault := fault_of(dataset_dir)) or not Path(dataset_dir).is_dir():
        found = f", which {fault}" if dataset_dir and fault else ""
        raise UserError(
            f"dataset_dir is {dataset_dir!r}{found}, expected a folder that exists: pass --dataset_dir DIR."
        )
    files = [file for entry in entries for file in entry_files(entry, dataset_dir).values()]
    if files and all(map(fault_of, files)):
        raise UserError(
            f"dataset_dir {dataset_dir} holds none of the datalist's {len(files)} files, such as {files[0]}, "
            f"which {fault_of(files[0])}: give the folder that its paths are relative to, as when it was made."
        )


def datalist_images(datalist: str, dataset_dir: str, sequences: Sequence[str] = ("t1ce",)) -> list[dict[str, Any]]:
    """The cases of a datalist that have these sequences, labelled or not, as ``{"image": path, "case": name}``.

    Files are not checked. A warning names the cases that lack a sequence.

    Args:
        datalist: the file.
        dataset_dir: the folder that its paths are relative to.
        sequences: what to take of each case; ``image`` is a list of paths if there are several.

    Raises:
        UserError: if the datalist cannot be read, no file of it is in the folder, or no case has these sequences.
    """
    entries = [entry for _, entry in listed(read_datalist(datalist, folds=False))]
    if not entries:
        raise UserError(f"datalist {datalist} lists no case: make it again (python -m scripts datalist).")
    check_files_are_there(entries, dataset_dir)
    lacking = [entry["case"] for entry in entries if set(sequences) - set(entry_files(entry, dataset_dir))]
    report_lacking(lacking, len(entries), sequences, f"datalist {datalist}")
    entries = [entry for entry in entries if entry["case"] not in lacking]
    return [network_entry(entry, dataset_dir, sequences, [], labelled=False) for entry in entries]


def entry_files(entry: Mapping[str, Any], dataset_dir: str) -> dict[str, Path]:
    """Absolute path of each sequence and of the label. The datalist's ``image`` is T1ce."""
    roles = {"image": "t1ce"}
    return {
        roles.get(key, key): Path(dataset_dir, entry[key])
        for key in ("image", *SEQUENCES, "label", TARGETS)
        if key in entry
    }


def patient_in(entry: Mapping[str, Any]) -> str:
    """The patient of an entry: as it says, or by the case's name."""
    return entry.get("patient") or patient_of(entry["case"])


def network_entry(
    entry: Mapping[str, Any],
    dataset_dir: str,
    student: Sequence[str],
    sequences: Sequence[str],
    labelled: bool = True,
) -> dict[str, Any]:
    """The entry with the student's sequences as ``image``, the teachers' sequences, any label, and the channels.

    ``channels`` also says how many ``volumes`` are in the file.
    """
    files = entry_files(entry, dataset_dir)
    images = [str(files[name]) for name in student]
    data: dict[str, Any] = {"case": entry["case"], "patient": patient_in(entry)}
    data |= {"image": images[0] if len(images) == 1 else images}
    data |= {name: str(files[name]) for name in sequences}
    if labelled and "label" in files:
        data["label"] = str(files["label"])
    if channels := entry.get("channels"):
        own = {name: channels[name] for name in sequences if name in channels}
        data["channels"] = {"image": [channels[name] for name in student], **own, "volumes": len(channels)}
    return data
