"""The T1ce series of each study below a folder, as images to predict."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.files import format_table
from scripts.folders.dicom import EXPORT, Series, Study, read_all_series
from scripts.folders.dicom_files import find_dicom, is_lost, may_hold_slices
from scripts.folders.folder_files import FolderFiles, recorded_cases
from scripts.folders.series import Verdict, choose, judge

logger = logging.getLogger(__name__)


def asked_for(series: Series, text: str) -> bool:
    """Whether ``--series`` names a series: by UID, by number, or by a pattern of its description."""
    names = (str(series.get("SeriesInstanceUID")), str(series.get("SeriesNumber")))
    return text in names or fnmatch(series.description.lower(), text.lower())


def find_series(dataset_dir: str, output_dir: str, sequence: str = "t1ce", wanted: str = "") -> list[dict[str, Any]]:
    """The series to predict of each study below a folder, as images: ``{"image", "case", "dicom"}``; [] without DICOM.

    ``image`` is where ``write_series`` is to put it, ``patient`` the PatientID, if there is one. A study without a
    clear or whole series has ``fault`` and ``remedy``. The log says of each series why it is taken or not.

    Args:
        dataset_dir: a folder, an enhanced DICOM file, or a DICOMDIR.
        output_dir: where the volumes go, in ``images``.
        sequence: named in the files.
        wanted: UID, number or description (pattern) of the series, for studies where the choice is not clear.

    Raises:
        UserError: if no study has such a series.
    """
    files = find_dicom(Path(dataset_dir), output_dir)
    root = Path(dataset_dir) if Path(dataset_dir).is_dir() else Path(dataset_dir).parent
    files.check(f"dataset_dir {dataset_dir}")
    if not files.volumes:
        FolderFiles(left_out=[each for each in files.left_out if may_hold_slices(*each)]).report(root)
        if wanted:
            raise UserError(
                f"series is {wanted!r}, but dataset_dir {dataset_dir} holds no DICOM, or NIfTI too: leave it out."
            )
        return []
    if Path(output_dir).resolve() == Path(dataset_dir).resolve():
        raise UserError(f"output_dir is {output_dir}, where the DICOM files are: give another folder.")
    if sequence != "t1ce" and not wanted:
        raise UserError(
            f"student_sequence is {sequence!r}, but only T1ce is found in DICOM: name the series by --series."
        )
    studies = without_others(read_all_series(files))
    files.report(root)
    check_file(Path(dataset_dir), studies)
    names = case_names(studies, recorded_names(output_dir))
    if wanted:
        names = with_series(names, studies, wanted)
    lost = [path for path, reason in files.left_out if is_lost(path, reason)]
    images, tables = [], []
    for study, case in names.items():
        verdicts = [judge(series) for series in studies[study]]
        chosen = choose_asked(verdicts, wanted) if wanted else choose(verdicts)
        tables.append(f"{case}\n{series_table(verdicts, chosen)}\n")
        images.append(study_image(study[0], case, chosen, lost, output_dir, sequence))
    if not images:
        what = f"series is {wanted!r}, which fits no MR series" if wanted else "there is no MR series"
        raise UserError(
            f"{what} below {dataset_dir}: give a folder of T1ce studies, or a UID, number or pattern of one."
        )
    if all("fault" in image for image in images):
        lines = [f"{image['case']}: {image['fault']}: {image['remedy']}." for image in images]
        raise UserError("\n".join([*tables, *lines, f"dataset_dir {dataset_dir}: no study can be predicted."]))
    for table in tables:
        logger.info(table)
    return images


def check_file(path: Path, studies: Mapping[Study, list[Series]]) -> None:
    """Check that a file that is given alone holds a volume. Raises UserError if it is one slice."""
    if any(one.files == [path] and not one.multi_frame for every in studies.values() for one in every):
        raise UserError(f"dataset_dir {path} is one slice: give the folder of the series.")


def without_others(studies: Mapping[Study, list[Series]]) -> dict[Study, list[Series]]:
    """The studies that have an MR series; the others, such as CT, are logged."""
    kept = {study: every for study, every in studies.items() if any(one.get("Modality") == "MR" for one in every)}
    if count := len(studies) - len(kept):
        others = [one for study, every in studies.items() if study not in kept for one in every]
        kinds = {str(one.get("Modality", "unknown")) for one in others}
        logger.info(f"Studies without MR, which are left out: {count} ({', '.join(sorted(kinds))}).")
    return kept


def with_series(names: Mapping[Study, str], studies: Mapping[Study, list[Series]], wanted: str) -> dict[Study, str]:
    """The names of the studies that have a series of this name; the others are logged."""
    kept = {study: name for study, name in names.items() if any(asked_for(one, wanted) for one in studies[study])}
    if kept and (others := [name for study, name in names.items() if study not in kept]):
        logger.warning(f"Studies without series {wanted!r}, which are left out: {', '.join(others)}.")
    return kept


def choose_asked(verdicts: Sequence[Verdict], wanted: str) -> list[Verdict]:
    """The series that ``--series`` names; of several those that fit best."""
    asked = [verdict for verdict in verdicts if asked_for(verdict.series, wanted)]
    for verdict in verdicts:
        if verdict not in asked:
            verdict.against = [f"not {wanted}"]
    if len(asked) == 1:
        although = f", although {asked[0].against[0]}" if asked[0].against else ""
        if although:
            logger.warning(f"--series {wanted} takes {asked[0].series.description!r}{although}.")
        asked[0].against, asked[0].reasons, asked[0].asked = [], [f"--series {wanted}{although}"], True
    return choose(asked) or asked


def recorded_names(output_dir: str) -> dict[Study, str]:
    """The names of the studies that earlier predictions into the folder gave, by their record."""
    cases = [case for case in recorded_cases(Path(output_dir, "inference.json")) if "dicom" in case]
    return {(case.get("patient", ""), str(case["dicom"].get("study"))): str(case.get("case")) for case in cases}


def case_names(studies: Mapping[Study, Sequence[Series]], earlier: Mapping[Study, str]) -> dict[Study, str]:
    """A name by study, sorted: the one that it had before, or the first of its forms that no other study has."""
    forms = {study: name_forms(study, str(first.get("StudyDate"))) for study, (first, *_) in studies.items()}
    names = {study: name for study, name in earlier.items() if name in forms.get(study, ())}
    for level in range(3):
        tried = {study: every[level] for study, every in forms.items() if study not in names}
        taken = [*names.values(), *tried.values()]
        names |= {study: name for study, name in tried.items() if taken.count(name) == 1 or level == 2}
    return dict(sorted(names.items(), key=lambda item: item[1]))


def name_forms(study: Study, date: str) -> tuple[str, str, str]:
    """PATIENTID_DATE; with the end of the study's UID; also with a checksum of PatientID and UID."""
    patient, date = (re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") for part in (study[0], date))
    name = "_".join(filter(None, [patient or "unknown", date]))
    longer = f"{name}_{study[1].replace('.', '')[-8:]}"
    return name, longer, f"{longer}_{hashlib.sha256(chr(10).join(study).encode()).hexdigest()[-8:]}"


def study_image(
    patient: str, case: str, chosen: Sequence[Verdict], lost: Sequence[Path], output_dir: str, sequence: str
) -> dict[str, Any]:
    """The image of one study whose series is chosen, or its fault.

    ``lost`` are unreadable files: those beside the slices may be slices of this series.
    """
    image: dict[str, Any] = {"image": str(Path(output_dir, "images", f"{case}_{sequence}.nii.gz")), "case": case}
    image |= {"patient": patient} if patient else {}
    if len(chosen) != 1:
        several = ", ".join(f"{one.series.get('SeriesNumber')} ({one.series.description})" for one in chosen)
        unfit = any(one.against for one in chosen)
        found = f"{len(chosen)} series {'are named so, and none is T1ce' if unfit else 'fit equally well'}: {several}"
        found = found if chosen else "no series is T1ce of a head"
        remedy = 'see the table of its series, and choose one by --series NUMBER, UID or "PATTERN of the description"'
        return image | {"fault": found, "remedy": remedy}
    (verdict,), series = chosen, chosen[0].series
    told = f"series {series.get('SeriesNumber')} ({series.description})"
    folders = {path.parent for path in series.files}
    if beside := [path for path in lost if path.parent in folders]:
        fault = f"{told}: {len(beside)} file(s) beside its slices cannot be read, such as {beside[0]}"
        return image | {"fault": fault, "remedy": "fetch them again, or move them away if they are no slices of it"}
    if fault := series.fault():
        return image | {"fault": f"{told}: {fault}", "remedy": EXPORT}
    if not verdict.asked and (fault := series.doubt()):
        return image | {"fault": f"{told}: {fault}", "remedy": f"{EXPORT}, or this one, to take it as it is"}
    about = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "number": "SeriesNumber"}
    known = {name: str(series.get(keyword)) for name, keyword in about.items()}
    known |= {"description": series.description, "why": verdict.why}
    return image | {"dicom": known | {"files": [str(path.resolve()) for path in series.files]}}


def series_table(verdicts: Sequence[Verdict], chosen: Sequence[Verdict]) -> str:
    """All series of a study, with the reason for or against each."""
    rows = [("", "number", "description", "slices", "why")]
    for verdict in verdicts:
        series, mark = verdict.series, "taken" if len(chosen) == 1 else "fits"
        shown = (str(series.get("SeriesNumber", "-")), series.description, str(series.slices), verdict.why)
        rows.append((mark if verdict in chosen else "", *shown))
    return format_table(rows, right=False)
