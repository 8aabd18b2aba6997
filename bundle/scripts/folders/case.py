"""One examination of one patient: its files by role."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from scripts.folders.schemes import patient_of

__all__ = ["Case"]


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
