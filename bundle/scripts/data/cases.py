"""Find patients and their files in a folder: BraTS of every edition, MSD Task01, or plain NIfTI files."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.errors import UserError
from scripts.labels import ENDINGS, ENDINGS_2023, MAP_ENDINGS, SEQUENCES

__all__ = ["Case", "find_cases", "find_images", "find_label_maps", "case_of", "label_map", "maps_of"]

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")
MSD_MODALITIES = {"FLAIR": "flair", "T1w": "t1", "t1gd": "t1ce", "T2w": "t2"}


@dataclass
class Case:
    """One patient: paths by role (the sequences and ``label``), and the channel of each sequence in a 4-D file."""

    name: str
    files: dict[str, Path] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    group: str = ""  # the folder that holds the case: a group without any label is a test set
    edition: str = "2018"  # decides the value of ET if no label holds ET

    @property
    def patient(self) -> str:
        """The name without the number of the examination: BraTS 2017-2019 end in ``_1``, 2023 and later in ``-000``."""
        match = re.fullmatch(r"(Brats1\d_.+)_\d|(BraTS-.+)-\d{3}", self.name)
        return (match[1] or match[2]) if match else self.name

    @property
    def source(self) -> str:
        """Group, edition and institution: the group and the first two parts of the name that contain a letter."""
        parts = [part for part in re.split(r"[_-]", self.name) if re.search("[A-Za-z]", part)]
        return "/".join([self.group, *parts[:2]])


def find_cases(dataset_dir: str | Path) -> list[Case]:
    """Every patient under a dataset folder, sorted by name.

    Raises:
        UserError: if the folder does not exist, holds no case, or two cases share a name.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise UserError(f"dataset_dir {root} is not a folder: give the folder that holds the patients.")
    cases = find_msd(root) if (root / "imagesTr").is_dir() else find_brats(root)
    if not cases:
        raise UserError(
            f"dataset_dir {root} holds no case: expected files such as NAME_t1ce.nii.gz (BraTS 2018-2021), "
            "NAME-t1c.nii.gz (2023 and later), or imagesTr and labelsTr (MSD Task01)."
        )
    seen: dict[str, Case] = {}
    for case in cases:
        if case.name in seen:
            raise UserError(
                f"case {case.name} is in {root} twice, in {seen[case.name].group} and {case.group}: keep one."
            )
        seen[case.name] = case
    return sorted(cases, key=lambda case: case.name)


def volumes_under(root: Path) -> list[Path]:
    """All .nii and .nii.gz files under a folder except hidden ones, sorted. Links to folders are followed."""
    found = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
    return sorted(path for path in found if is_volume(path) and path.name[0] != "." and path.is_file())


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def find_brats(root: Path) -> list[Case]:
    """Cases of BraTS folders. Files are grouped by folder and by their name without the ending (role)."""
    folders: dict[Path, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    modern: set[Path] = set()
    for path in volumes_under(root):
        stem, ending = split_name(path)
        if ending in ENDINGS:
            folders[path.parent][stem][ENDINGS[ending]] = path
            if ending in ENDINGS_2023:
                modern.add(path.parent)
    cases = []
    for folder, groups in folders.items():
        merge_misnamed_label(groups)
        for stem, files in groups.items():
            alone = len(groups) == 1 and folder != root
            name, parent = (folder.name, folder.parent) if alone else (stem, folder)
            group = parent.relative_to(root).as_posix() if parent != root else ""
            cases.append(Case(name, files, group=group, edition="2023" if folder in modern else "2018"))
    return cases


def merge_misnamed_label(groups: dict[str, dict[str, Path]]) -> None:
    """Give a label of another name to the only patient in its folder: W39_1998.09.19_Segm.nii of BraTS20 case 355."""
    labels_alone = [stem for stem, files in groups.items() if set(files) == {"label"}]
    if len(labels_alone) == 1 and len(groups) == 2:
        label = groups.pop(labels_alone[0])
        next(iter(groups.values())).setdefault("label", label["label"])


def find_msd(root: Path) -> list[Case]:
    """Cases of MSD Task01: 4-D volumes in imagesTr and imagesTs, channel order from dataset.json if there is one."""
    modalities = {str(index): name for index, name in enumerate(MSD_MODALITIES)}
    if (root / "dataset.json").is_file():
        modalities = json.loads((root / "dataset.json").read_text()).get("modality", modalities)
    channels = {MSD_MODALITIES[name]: int(index) for index, name in modalities.items() if name in MSD_MODALITIES}
    if set(channels) != set(SEQUENCES):
        raise UserError(
            f"{root / 'dataset.json'}: modality is {modalities}, expected the four of {list(MSD_MODALITIES)}."
        )
    cases = []
    for folder in ("imagesTr", "imagesTs"):
        for path in sorted((root / folder).glob("[!.]*.nii*")):
            case = Case(strip_suffix(path), dict.fromkeys(SEQUENCES, path), dict(channels), folder, "msd")
            label = root / "labelsTr" / path.name
            if label.is_file():
                case.files["label"] = label
            cases.append(case)
    return cases


def find_images(path: str | Path, sequence: str = "t1ce") -> list[dict]:
    """Images to predict, as ``{"image": path, "case": name}``: a file, a folder of NIfTI files, or BraTS folders.

    If any file is named as the wanted sequence (NAME_t1ce.nii.gz), only such files are taken, and files without the
    name of a sequence are left out with a warning. Otherwise all files are taken except other sequences and labels.

    Raises:
        UserError: if there is no such file or folder, nothing in it fits, or two cases share a name.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"dataset_dir {root} does not exist: give a NIfTI file or a folder of them.")
    files = [root] if root.is_file() and is_volume(root) else volumes_under(root)
    roles = {file: ENDINGS.get(split_name(file)[1]) for file in files}
    chosen = [file for file in files if roles[file] == sequence]
    plain = [file for file in files if roles[file] is None and split_name(file)[1] not in MAP_ENDINGS]
    if chosen and plain:
        names = ", ".join(file.name for file in plain[:5])
        logger.warning(
            f"Left out {len(plain)} file(s) whose names tell no sequence, since {len(chosen)} tell {sequence}: {names}"
        )
    chosen = chosen or plain
    if root.is_file() and not chosen:
        raise UserError(
            f"dataset_dir {root} is named as a file of {split_name(root)[1]}, not of {sequence}: rename it."
        )
    if not chosen:
        raise UserError(
            f"dataset_dir {root} holds no {sequence} image: expected .nii or .nii.gz files that are not named as "
            "another sequence, a label or an entropy map."
        )
    images: dict[str, dict] = {}
    for file in chosen:
        name = case_of(file)
        if name in images:
            raise UserError(
                f"{images[name]['image']} and {file} are both named {name}: rename one, or predict them apart."
            )
        images[name] = {"image": str(file), "case": name}
    return list(images.values())


def find_label_maps(path: str | Path, key: str) -> dict[str, Path]:
    """Label maps by case, sorted: BraTS folders, or a folder of NIfTI files named after their case.

    If any file is named as a label (NAME_seg.nii.gz), only such files are taken. Otherwise all files are taken except
    sequences.

    Args:
        path: the folder.
        key: the option that named it, for messages.

    Raises:
        UserError: if there is no such folder, no label map in it, or two label maps of one case.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{key} {root} is not a folder: give the folder of the label maps.")
    named = [(case.name, case.files["label"]) for case in find_brats(root) if "label" in case.files]
    plain = [
        (strip_suffix(file), file)
        for file in volumes_under(root)
        if split_name(file)[1] not in (*ENDINGS, *MAP_ENDINGS)
    ]
    maps: dict[str, Path] = {}
    for case, file in sorted(named or plain):
        if case in maps:
            raise UserError(
                f"{key}: {maps[case]} and {file} are both of case {case}: keep one, and name files after their case."
            )
        maps[case] = file
    if not maps:
        raise UserError(f"{key} {root} holds no label map: expected NAME.nii.gz, NAME_seg.nii.gz or BraTS folders.")
    return maps


def case_of(path: str | Path) -> str:
    """The case of an image: its file name without suffix and without the sequence, if it names one."""
    stem, ending = split_name(Path(path))
    return stem if ending in ENDINGS else strip_suffix(Path(path))


def label_map(output_dir: str, image: str | Sequence[str]) -> Path:
    """Path where SaveImaged puts the label map of an image. The first of several (channels) gives the name."""
    return maps_of(output_dir, image)[0]


def maps_of(output_dir: str, image: str | Sequence[str]) -> list[Path]:
    """Paths of all files that inference writes for an image: the label map and the maps of uncertainty."""
    case = case_of(image if isinstance(image, str) else image[0])
    return [Path(output_dir, f"{case}_{ending}.nii.gz") for ending in ("seg", *MAP_ENDINGS)]


def strip_suffix(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def split_name(path: Path) -> tuple[str, str]:
    """(stem, lower-case ending): NAME_t1ce.nii.gz and NAME/t1ce.nii.gz -> (NAME, t1ce). The ending may be ""."""
    if (bare := strip_suffix(path).lower()) in ENDINGS:
        return path.absolute().parent.name, bare
    match = re.fullmatch(r"(.+)[_-]([A-Za-z0-9]+)", strip_suffix(path))
    return (match[1], match[2].lower()) if match else (strip_suffix(path), "")
