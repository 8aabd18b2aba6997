"""Find patients and their files in a folder, by the naming schemes of schemes.py, or by the user's own names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.faults import fault_of, report_lacking
from scripts.folders.case import Case
from scripts.folders.choice import Choice
from scripts.folders.folder_files import FolderFiles, add_file, leave_out_predictions, list_files
from scripts.folders.grouping import Named, build_cases
from scripts.folders.schemes import endings_text, read_name, strip_suffix
from scripts.folders.task_folders import CHANNEL, find_task, read_task
from scripts.folders.words import sequence_told
from scripts.labels import ENDINGS


def find_cases(dataset_dir: str | Path, choice: Choice | None = None, labelled: bool = True) -> list[Case]:
    """Every case under a dataset folder, sorted by name; ``labelled`` as of ``survey``.

    Raises:
        UserError: as ``survey``, and if anything below the folder cannot be read.
    """
    cases, files = survey(dataset_dir, choice, labelled)
    files.check(f"dataset_dir {dataset_dir}")
    return cases


def survey(
    dataset_dir: str | Path, choice: Choice | None = None, labelled: bool = True
) -> tuple[list[Case], FolderFiles]:
    """Every case under a dataset folder, sorted by name, and all files: used, left out and why, and unreadable ones.

    ``labelled`` asks for what the labels' values mean, where a dataset.json must say it.

    Raises:
        UserError: if the folder does not exist, holds no case, mixes data sets, or holds two files of one role.
    """
    root, choice = Path(dataset_dir), choice or Choice()
    if (fault := fault_of(root)) or not root.is_dir():
        raise UserError(f"dataset_dir {root} {fault or 'is not a folder'}: give the folder that holds the patients.")
    files = list_files(root)
    leave_out_predictions(files)
    task = None if choice.globs else find_task(root, files)
    cases = (
        read_task(task, files, labelled)
        if task
        else build_cases(keep_named(read_names(root, files, choice), files), root)
    )
    if not cases and not files.broken:
        raise UserError(f"dataset_dir {root} holds no case. {endings_text(files.volumes)}")
    families = {case.family: case for case in cases}
    if len(families) > 1:
        examples = " and ".join(f"{family} ({case.name})" for family, case in families.items())
        raise UserError(f"dataset_dir {root} mixes {examples}: put each data set into its own folder.")
    if choice.patient:
        patients = choice.patients_of({case.name: "/".join(filter(None, (case.group, case.name))) for case in cases})
        for case in cases:
            case.patient = patients[case.name]
    return sorted(cases, key=lambda case: case.name), files


def read_names(root: Path, files: FolderFiles, choice: Choice) -> Named:
    """What each volume's name says, by the user's patterns first.

    Raises:
        UserError: if a pattern fits no file.
    """
    own = {path: name for path in files.volumes if (name := choice.read(path, root))}
    for role in set(choice.globs) - {name.role for name in own.values()}:
        if root.is_file():
            raise UserError(
                f"{role} is {choice.globs[role]!r}, which does not fit the name of {root}: correct the pattern."
            )
        shown = ", ".join(path.relative_to(root).as_posix() for path in files.volumes[:3])
        raise UserError(f"{role} is {choice.globs[role]!r}, which fits no NIfTI file below {root}, such as {shown}.")
    names = own | {path: read_name(path) for path in files.volumes if path not in own}
    for path, name in names.items():
        if path not in own and name.role in choice.globs:
            names[path] = name._replace(role="other", reason=f"--{name.role} chooses other files")
    return dict(sorted(names.items()))


def keep_named(names: Named, files: FolderFiles) -> Named:
    """The names that tell a role; the other files are left out."""
    for path, name in names.items():
        if name.role in ("", "other"):
            files.leave_out(path, name.reason or "no known ending")
    return {path: name for path, name in names.items() if name.role not in ("", "other")}


def find_images(path: str | Path, sequence: str = "t1ce", choice: Choice | None = None) -> list[dict[str, Any]]:
    """Images to predict, as ``{"image": path, "case": name}``: a file, a folder of NIfTI files, or a data set.

    If any file is named as the wanted sequence (NAME_t1ce.nii.gz), only such files are taken. Otherwise all files are
    taken whose names tell nothing. What is left out is logged with the reason.

    Raises:
        UserError: if there is no such file or folder, nothing in it fits, a file or folder cannot be read, two images
            are of one case, or it is not clear which of a patient's files is wanted.
    """
    root, choice = Path(path), choice or Choice()
    if fault := fault_of(root):
        raise UserError(f"dataset_dir {root} {fault}: give a NIfTI file or a folder of them.")
    files = FolderFiles() if root.is_file() else list_files(root)
    if root.is_file():
        add_file(files, root)
    files.check(f"dataset_dir {root}")
    if root.is_file() and files.left_out:
        raise UserError(f"dataset_dir {root}: {files.left_out[0][1]}. Give a NIfTI file, or a folder of them.")
    task = None if choice.globs or root.is_file() else find_task(root, files)
    if task:
        images = task_images(task, files, sequence)
    else:
        images = named_images(root, read_names(root, files, choice), sequence, files)
    files.report(root)
    return images


def task_images(task: Path, files: FolderFiles, sequence: str) -> list[dict[str, Any]]:
    """Images of MSD Task01 or of an nnU-Net data set."""
    cases = sorted(read_task(task, files, labelled=False), key=lambda case: case.name)
    return case_images(cases, [sequence], task)


def case_images(cases: Sequence[Case], sequences: Sequence[str], dataset_dir: str | Path) -> list[dict[str, Any]]:
    """Images of the cases that have these sequences, as ``{"image": path, "case": name}``; of several, a list of paths.

    Raises:
        UserError: if no case has.
    """
    lacking = [case.name for case in cases if set(sequences) - set(case.files)]
    report_lacking(lacking, len(cases), sequences, f"dataset_dir {dataset_dir}")
    images = []
    for case in (case for case in cases if case.name not in lacking):
        paths = [str(case.files[name]) for name in sequences]
        channels = {"channels": {"image": [case.channels[name] for name in sequences]}} if case.channels else {}
        images.append({"image": paths if len(paths) > 1 else paths[0], "case": case.name} | channels)
    return images


def named_images(root: Path, names: Named, sequence: str, files: FolderFiles) -> list[dict[str, Any]]:
    """Images by their names; other files are left out."""
    chosen = [file for file, name in names.items() if name.role == sequence]
    plain = [file for file, name in names.items() if not name.role]
    if not chosen:
        reject_other_sequences(plain, sequence, root)
        reject_several_of_a_patient(plain, sequence)
        chosen = plain
    for file, name in names.items():
        if file not in chosen:
            reason = name.reason or (f"is {name.role}" if name.role else f"tells no sequence, others tell {sequence}")
            files.leave_out(file, reason)
    if root.is_file() and not chosen:
        raise UserError(
            f"dataset_dir {root} is named as a file of {names[root].ending or names[root].reason}, not of {sequence}: "
            f"give the file of {sequence}. Rename it only if it is that."
        )
    if not chosen:
        raise UserError(f"dataset_dir {root} holds no {sequence} image. {endings_text(names)}")
    cases = {file: names[file].case if names[file].role else strip_suffix(file) for file in chosen}
    alike = len(set(cases.values())) < len(cases)  # P1/scan_t1ce and P2/scan_t1ce
    by_folder = {
        file: names[file] for file in chosen if names[file].role and (alike or strip_suffix(file).lower() in ENDINGS)
    }
    cases |= {
        case.files[sequence]: case.name for case in build_cases(by_folder, root.parent if root.is_file() else root)
    }
    images: dict[str, dict] = {}
    for file in chosen:
        case = cases[file]
        if other := images.get(case.casefold()):  # P1 and p1 are one file on CIFS, exFAT and NTFS
            also = f"{other['case']} and {case}, which are one name on many disks" if other["case"] != case else case
            raise UserError(
                f"{other['image']} and {file} are both {sequence} of {also}: rename one, predict them apart, or "
                f'choose by --{sequence} "PATTERN".'
            )
        images[case.casefold()] = {"image": str(file), "case": case}
    return list(images.values())


def reject_other_sequences(plain: list[Path], sequence: str, root: Path) -> None:
    """Raises UserError if files without a known ending seem to be of another sequence, or only some of the wanted one.

    Words of their names and of folders below ``root`` tell the sequence.
    """
    told = {}
    for file in plain:
        folders = file.relative_to(root).parts[:-1] if file != root else ()
        told[file] = [found for name in (*folders, strip_suffix(file)) if (found := sequence_told(name))[0]]
    for file, other in ((file, word) for file, found in told.items() for kind, word in found if kind != sequence):
        raise UserError(
            f"{file} seems to be of a sequence ({other}), but no ending is known. {endings_text(plain)} If all files "
            f'are {sequence}: --{sequence} "*.nii.gz".'
        )
    telling, silent = ([file for file in plain if bool(told[file]) is known] for known in (True, False))
    if telling and silent:
        raise UserError(
            f"{telling[0]} seems to be {sequence} ({told[telling[0]][0][1]}), and {silent[0]} does not say what it is. "
            f'Say which files are {sequence} by a pattern: --{sequence} "PATTERN".'
        )


def reject_several_of_a_patient(plain: list[Path], sequence: str) -> None:
    """Raises UserError if files without a known ending seem to be several of one patient."""
    stems = {strip_suffix(file): file for file in plain}
    channels: dict[str, list[Path]] = {}
    for stem, file in stems.items():
        if match := re.fullmatch(CHANNEL, stem):
            channels.setdefault(match[1], []).append(file)
    rows = [files for files in channels.values() if 1 < len(files) <= 4 and strip_suffix(files[0]).endswith("_0000")]
    words = [[stems[head], file] for stem, file in stems.items() for head in heads(stem) if head in stems]
    if unclear := [*rows, *words]:
        raise UserError(
            f"{unclear[0][0]} and {unclear[0][1].name} seem to be of one patient, and the names do not say which is "
            f'{sequence}. Say it by a pattern: --{sequence} "*_0001.nii.gz" for the second channel of nnU-Net, '
            f'--{sequence} "*.nii.gz" if each file is a patient.'
        )


def heads(stem: str) -> list[str]:
    """The beginnings of a name that it continues by a word: P0 of P0_bet and of P0 (1), but not of P0_1."""
    cuts = [match.start() for match in re.finditer("[_. -]+", stem)]
    return [stem[:cut] for cut in cuts if re.search(r"[A-Za-z]|^ \(\d+\)$", stem[cut:])]
