"""What another program predicted, as a teacher: label maps or probabilities of any tool become class probabilities."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from scripts.data.cases import find_label_maps, strip_suffix
from scripts.data.folder_files import list_files
from scripts.errors import UserError
from scripts.labels import CLASSES, LABEL_VALUES, PROBABILITIES, TARGETS
from scripts.method.regions import regions_to_classes

__all__ = ["ClassProbabilitiesd", "find_targets", "target_classes", "with_targets"]


def find_targets(targets: str, cases: Iterable[str]) -> dict[str, Path]:
    """Another program's prediction of each case: NAME_probabilities.nii.gz, or else a label map.

    Raises:
        UserError: if there is no such folder, or nothing of these cases in it.
    """
    root, cases = Path(targets), list(cases)
    if not root.is_dir():
        raise UserError(f"targets is {targets!r}, expected a folder of label maps or probabilities.")
    files = list_files(root)
    files.check(f"targets {root}")
    ending = f"_{PROBABILITIES}"
    stems = {strip_suffix(path): path for path in files.volumes}
    found = {stem.removesuffix(ending): path for stem, path in stems.items() if stem.endswith(ending)}
    if len(found) < len(stems):
        found = find_label_maps(root, "targets") | {case: stems[case] for case in cases if case in stems} | found
    if not set(found) & set(cases):
        raise UserError(
            f"targets {targets} holds {', '.join(sorted(found)[:3]) or 'no NIfTI file'}, but no case of the datalist, "
            f"such as {cases[0]}: name files NAME_probabilities.nii.gz or NAME.nii.gz after their case."
        )
    return {case: found[case] for case in cases if case in found}


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


def target_classes(target_values: str | None, label_values: Sequence[int]) -> dict[int, int]:
    """Network class of each value in another program's label maps.

    Args:
        target_values: name of their meaning, as for ``score --label_values``; None is that of the datalist's labels.
        label_values: value of each network class in the datalist's labels.

    Raises:
        UserError: if the name is unknown.
    """
    if target_values is None:
        return {value: index for index, value in enumerate(label_values)}
    if target_values not in LABEL_VALUES:
        raise UserError(f"target_values is {target_values!r}, expected one of {', '.join(LABEL_VALUES)}.")
    return LABEL_VALUES[target_values]


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
