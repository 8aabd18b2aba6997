"""What another program predicted, as a teacher: label maps or probabilities of any tool become class probabilities."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from scripts.errors import UserError
from scripts.faults import Fault, report_faults
from scripts.folders.folder_files import list_files
from scripts.folders.map_files import choose_label_maps, reason_against
from scripts.folders.schemes import strip_suffix
from scripts.labels import CLASSES, PROBABILITIES, TARGETS, class_of_value
from scripts.variants.regions import regions_to_classes

logger = logging.getLogger(__name__)

PROBABILITY = re.compile(rf"(?<=.)_{PROBABILITIES}$")  # ending of a file of probabilities


def find_targets(targets: str, cases: Iterable[str]) -> dict[str, Path]:
    """Another program's prediction of each case: NAME_probabilities.nii.gz, or else a label map.

    Says how many cases have one, and which files are not used.

    Raises:
        UserError: if there is no such folder, nothing of these cases in it, or two files may be of one case.
    """
    root, cases = Path(targets), list(cases)
    if not root.is_dir():
        raise UserError(f"targets is {targets!r}, expected a folder of label maps or probabilities.")
    files = list_files(root)
    files.check(f"targets {root}")
    soft = one_of_each(path for path in files.volumes if PROBABILITY.search(strip_suffix(path)))
    rest = [path for path in files.volumes if path not in soft.values()]
    maps = choose_label_maps(rest, root, "targets") | one_of_each(path for path in rest if strip_suffix(path) in cases)
    found = {case: path for case, path in (maps | soft).items() if case in cases}
    if not found:
        names = ", ".join(path.name for path in files.volumes[:3])
        raise UserError(
            f"targets {targets} holds {f'files such as {names}, but none' if names else 'no NIfTI file, so none'} of a "
            f"case of the datalist, such as {cases[0]}: give a folder of NAME_probabilities.nii.gz or NAME.nii.gz."
        )
    case_of_file = {path: case for part in (maps, soft) for case, path in part.items()}
    for path in [path for path in files.volumes if path not in found.values()]:
        case = case_of_file.get(path)
        against = "is a label map beside probabilities, which are used" if case in found else "of no training case"
        files.leave_out(path, against if case else reason_against(path))
    logger.info(f"targets: {len(found)} of {len(cases)} cases have a prediction in {root}.")
    files.report(root)
    return found


def one_of_each(volumes: Iterable[Path]) -> dict[str, Path]:
    """The files NAME.nii.gz or NAME_probabilities.nii.gz by case. Raises UserError for two of one case."""
    found: dict[str, Path] = {}
    for path in volumes:
        case = PROBABILITY.sub("", strip_suffix(path))
        if (other := found.setdefault(case, path)) != path:
            raise UserError(f"targets: {other} and {path} are both of case {case}: keep one of them.")
    return found


def with_targets(entries: Sequence[dict[str, Any]], targets: str | None, seen: Collection[str]) -> list[dict[str, Any]]:
    """The entries, each with the prediction of another program, where there is one.

    Raises:
        UserError: if predictions are given that no teacher sees, or the other way round.
    """
    if targets and TARGETS not in seen:
        raise UserError("targets is given, but no teacher sees it: train with --method stored_targets.")
    if TARGETS in seen and not targets:
        raise UserError("targets is not given, which a teacher sees: pass --targets DIR, a folder of predictions.")
    found = find_targets(targets, [entry["case"] for entry in entries]) if targets else {}
    own = [{key: value for key, value in entry.items() if key != TARGETS} for entry in entries]
    return [
        entry | ({TARGETS: str(found[entry["case"]].absolute())} if entry["case"] in found else {}) for entry in own
    ]


def leave_out(faults: Sequence[Fault], entries: Sequence[Mapping[str, Any]], strict: bool) -> tuple[set[str], set[str]]:
    """Names of the cases to leave out, and of those whose prediction by another program is left out alone.

    Raises:
        UserError: if there is any fault and ``strict`` is set.
    """
    target_of = {entry["case"]: entry.get(TARGETS) for entry in entries}
    of_targets = [fault for fault in faults if fault.file == target_of[fault.case]]
    others = [fault for fault in faults if fault not in of_targets]
    if strict:
        report_faults(faults, strict)
    return report_faults(others, strict), report_faults(of_targets, strict, what="target(s)")


def target_classes(target_values: str | Sequence[int] | None, label_values: Sequence[int]) -> dict[int, int]:
    """Network class of each value in another program's label maps.

    Args:
        target_values: their meaning, as for ``score --label_values``; None is that of the datalist's labels.
        label_values: value of each network class in the datalist's labels.

    Raises:
        UserError: for an unknown name or list.
    """
    return dict(class_of_value(label_values if target_values is None else target_values, "target_values"))


class ClassProbabilitiesd(MapTransform):
    """Label maps and probabilities of other programs become class probabilities.

    Args:
        keys: of the volumes, each (1, H, W, D) with label values, (4, H, W, D) with probabilities of the classes, or
            (3, H, W, D) with those of TC, WT and ET.
        classes: network class of each value in a label map.
        allow_missing_keys: skip keys that are absent.

    Shapes: -> (4, H, W, D), float32.
    """

    def __init__(self, keys: KeysCollection, classes: Mapping[int, int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = dict(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            plain = torch.as_tensor(result[key]).as_subclass(torch.Tensor).float()
            if len(plain) == 1:
                probabilities = plain.new_zeros(len(CLASSES), *plain.shape[1:])
                for value, index in self.classes.items():
                    probabilities[index] += plain[0].round() == value
            else:
                probabilities = plain if len(plain) == len(CLASSES) else regions_to_classes(plain)
            result[key] = convert_to_dst_type(probabilities, result[key], dtype=torch.float32)[0]
        return result
