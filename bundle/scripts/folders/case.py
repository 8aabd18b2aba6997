"""One examination of one patient: its files by role, and what tells whether they were replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.faults import fault_of
from scripts.folders.schemes import patient_of

# What a record says of the DICOM series of a case, as for ``check_form``.
SERIES = {**dict.fromkeys(("series", "number", "description", "why"), str), "files": [str]}


@dataclass
class Case:
    """One examination: paths by role (the sequences and ``label``), and the channel of each sequence in a 4-D file."""

    name: str
    files: dict[str, Path] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    group: str = ""  # the folder that holds the case: a group without any label is a test set
    edition: str = "2018"  # decides the value of ET if no label holds ET
    label_values: tuple[int, ...] = ()  # on disk, of the network classes, where the data set says so
    family: str = "BraTS"  # of naming schemes
    patient: str = ""  # by default the name without its time point

    def __post_init__(self) -> None:
        self.patient = self.patient or patient_of(self.name)

    @property
    def source(self) -> str:
        """Group, edition and institution: the group and the first two parts of the name that contain a letter."""
        parts = [part for part in re.split(r"[_-]", self.name) if re.search("[A-Za-z]", part)]
        return "/".join([self.group, *parts[:2]])


def inside(folder: str | Path, name: str) -> Path:
    """The file of this name in the folder itself: a record from elsewhere may hold a path that leads out of it."""
    return Path(folder, Path(name).name)


def stamp(image: Mapping[str, Any]) -> dict[str, int]:
    """Size and time of an image's files, mask included: they tell whether one was replaced since it was predicted."""
    own = image["image"]
    files = image.get("dicom", {}).get("files") or ([own] if isinstance(own, str) else own)
    paths = [*dict.fromkeys(files), *filter(None, [image.get("brain_mask")])]
    stats = [Path(path).stat() for path in paths if not fault_of(path)]
    if not stats:
        return {}
    return {"size": sum(stat.st_size for stat in stats), "time_ns": max(stat.st_mtime_ns for stat in stats)}
