"""Group files into cases by what their names and folders say."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import UserError
from scripts.folders.case import Case
from scripts.folders.schemes import MISNAMED, PLAIN, TIME, YEAR, Name, patient_of
from scripts.labels import ENDINGS_2023, SEQUENCES

logger = logging.getLogger(__name__)

FEW = 6  # a patient has hardly more examinations
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
    for folder, groups in folders.items():
        check_one_name(folder, groups)
    found = [(new_case(stem, folder, folders, root, names), folder) for folder in folders for stem in folders[folder]]
    name_after_folders(found, root)
    cases: dict[str, Case] = {}
    for case, _ in found:
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
        name = unicodedata.normalize("NFC", name)
    home = folder.parent if alone else folder
    while home != top and (home.name in ("anat", patient_of(name)) or is_time(home.name)):
        home = home.parent
    endings = {names[path].ending for group in folders[folder].values() for path in group.values()}
    modern = endings & set(ENDINGS_2023) and not endings & set(SEQUENCES)
    return Case(
        name,
        dict(files),
        group=home.relative_to(top).as_posix() if home != top else "",
        edition=scheme.edition or ("2023" if modern else "2018"),
        family=scheme.family or scheme.title,
    )


def is_time(folder: str) -> bool:
    """Whether a folder's name is a time point, such as 01 or baseline."""
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
            f"{first.files[role]} and {second.files[role]} are both its {role}. If they are two patients, rename one; "
            "if it is one file twice, keep one."
        )
    if set(first.files) == {"label"}:
        first.group, first.edition = second.group, second.edition
    first.files |= second.files


def check_one_name(folder: Path, groups: dict[str, dict[str, Path]]) -> None:
    """Raises UserError if a file that the case of this folder lacks is there under the name of another case.

    BraTS 2020 itself has one such file, which stays the label of its folder's case.
    """
    own = groups.get(folder.name, {})
    for stem in [stem for stem in groups if own and stem != folder.name]:
        if MISNAMED.get(folder.name) == stem:
            own |= {role: path for role, path in groups.pop(stem).items() if role not in own}
        elif len(groups[stem]) == 1 and not set(groups[stem]) & set(own):
            ((role, path),) = groups[stem].items()
            raise UserError(
                f"{path} lies in the folder of case {folder.name}, which has no {role}, but is named after {stem}. "
                f"Move it to the folder of {stem}. If it is of {folder.name}, rename it, or give "
                f'--{role} "*/{path.name}".'
            )


def name_after_folders(found: Sequence[tuple[Case, Path]], root: Path) -> None:
    """Name examinations PATIENT_FOLDER where their own folders do not name the patient, but the folder above does.

    It does so where a folder beside theirs is a time point, or where folders of one name lie in several folders with
    few cases each: P1/scan_a and P2/scan_a. So do folders that are all named as years.
    """
    top = root.absolute()
    above_patients = hold_patients(found, top)
    timed = {folder.parent for _, folder in found if is_time(folder.name)}
    renamed = []
    for case, folder in found:
        above = folder.parent
        repeated = above.parent in above_patients
        while above != top and is_time(above.name):
            above = above.parent
        named = any(path.name.startswith(folder.name) for path in case.files.values())
        inside = above not in (top, *top.parents) and case.name.endswith(folder.name) and not named
        if inside and (repeated or {folder.parent, above} & timed):
            case.name = "_".join(folder.relative_to(above.parent).parts)
            case.patient = above.name
            case.group = "/".join(above.parent.relative_to(top).parts)
            renamed += [(folder.relative_to(top).as_posix(), case)] if repeated else []
    if renamed:
        names = "; ".join(f"{path} is {case.name} of patient {case.patient}" for path, case in renamed[:FEW])
        logger.warning(
            f"{len(renamed)} scans are named after their folder and the one above it, which counts as the patient: "
            f"{names}. If that is wrong, rename the folders, or say what names the patient by --patient REGEX of the "
            "command datalist."
        )


def hold_patients(found: Sequence[tuple[Case, Path]], top: Path) -> set[Path]:
    """Folders of patients' folders, each with few examinations: some of one name, or all of one named as years."""
    alike: dict[str, list[tuple[Case, Path]]] = defaultdict(list)
    for case, folder in found:
        alike[case.name].append((case, folder))
    beside = Counter(folder.parent for _, folder in found)
    twice = {
        folder.parent.parent
        for group in alike.values()
        for case, folder in group
        if any(set(case.files) & set(other.files) for other, _ in group if other is not case)
    }
    years = set(beside) - {folder.parent for _, folder in found if not re.fullmatch(YEAR, folder.name)}
    large = {above.parent for above, count in beside.items() if count > FEW}
    return (twice | {above.parent for above in years - {top}}) - large
