"""Group files into cases by what their names and folders say."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from scripts.data.case import Case
from scripts.data.schemes import PLAIN, TIME, Name, patient_of
from scripts.errors import UserError
from scripts.labels import ENDINGS_2018, ENDINGS_2023

__all__ = ["Named", "build_cases"]

Named = dict[Path, Name]
Folders = dict[Path, dict[str, dict[str, Path]]]  # path by folder, case and role


def build_cases(names: Named, root: Path) -> list[Case]:
    """Cases of named files: those of one name and folder, or of one name over folders of images and of labels."""
    folders: Folders = defaultdict(lambda: defaultdict(dict))
    for path, name in names.items():
        files = folders[name.folder][name.case]
        if name.role in files:
            raise UserError(
                f"{files[name.role]} and {path} are both the {name.role} of case {name.case}: keep one, or choose by a "
                f'pattern, such as --{name.role} "*{path.name.removeprefix(name.case)}".'
            )
        files[name.role] = path
    cases: dict[str, Case] = {}
    for folder, groups in folders.items():
        merge_misnamed_label(folder, groups)
    for folder, groups in folders.items():
        for stem in groups:
            case = new_case(stem, folder, folders, root, names)
            if case.name in cases:
                join(cases[case.name], case, root)
            else:
                cases[case.name] = case
    return list(cases.values())


def new_case(stem: str, folder: Path, folders: Folders, root: Path, names: Named) -> Case:
    """The case of one name in one folder. A folder of one case gives it its name, unless a scheme names the case."""
    files = folders[folder][stem]
    top = root.absolute()
    schemes = [names[path].scheme for path in files.values()]
    scheme = next((item for item in schemes if item is not PLAIN), PLAIN)
    alone = len(folders[folder]) == 1 and folder != top
    name = stem
    if alone and scheme is PLAIN and not is_in_parts(stem, folder, folders, top):
        name = f"{folder.parent.name}_{folder.name}" if is_time(folder.name) else folder.name
    home = folder.parent if alone else folder
    while home != top and (home.name in ("anat", patient_of(name)) or is_time(home.name)):
        home = home.parent
    endings = {names[path].ending for group in folders[folder].values() for path in group.values()}
    modern = endings & set(ENDINGS_2023) and not endings & set(ENDINGS_2018)
    return Case(
        name,
        dict(files),
        group=home.relative_to(top).as_posix() if home != top else "",
        edition=scheme.edition or ("2023" if modern else "2018"),
        family=scheme.family or scheme.title,
    )


def is_time(folder: str) -> bool:
    return bool(re.fullmatch(TIME, folder, re.IGNORECASE))


def is_in_parts(stem: str, folder: Path, folders: Folders, top: Path) -> bool:
    """Whether the other files of a case are in another folder, such as images/ and labels/.

    Raises:
        UserError: if this cannot be told from two cases in folders of their own: P1/scan_t1ce and P2/scan_seg.
    """
    roles = set(folders[folder][stem])
    parts = [item for item in folders if stem in folders[item] and not roles & set(folders[item][stem])]
    lonely = [item for item in parts if len(folders[item]) == 1 and item not in (folder, top) and item.name != stem]
    if lonely and folder.name != stem:
        first, second = (next(iter(folders[item][stem].values())) for item in (folder, lonely[0]))
        raise UserError(
            f"{first} and {second}: one case or two? Name them after their case, or give globs with folders, such as "
            '--label "labels/*_seg.nii.gz".'
        )
    return bool(parts)


def join(first: Case, second: Case, root: Path) -> None:
    """Add the files of a case's other folder. Raises UserError if both folders hold one role."""
    for role in set(first.files) & set(second.files):
        raise UserError(
            f"case {first.name} is in {root} twice, in {first.group or root} and {second.group or root}: "
            f"{first.files[role]} and {second.files[role]} are both its {role}. Keep one."
        )
    if set(first.files) == {"label"}:
        first.group, first.edition = second.group, second.edition
    first.files |= second.files


def merge_misnamed_label(folder: Path, groups: dict[str, dict[str, Path]]) -> None:
    """Give a label of another name to the patient whose folder this is: W39_1998.09.19_Segm.nii of BraTS20 case 355."""
    labels_alone = [stem for stem, files in groups.items() if set(files) == {"label"}]
    if len(labels_alone) == 1 and len(groups) == 2 and folder.name in set(groups) - set(labels_alone):
        groups[folder.name].setdefault("label", groups.pop(labels_alone[0])["label"])
