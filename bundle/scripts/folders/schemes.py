"""How public data sets name their files: one table. The user's own names: choice.py."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from scripts.errors import UserError
from scripts.labels import ENDINGS, MAP_ENDINGS, SEQUENCES

SUFFIXES = (".nii.gz", ".nii")


class Scheme(NamedTuple):
    """One naming scheme.

    Args:
        title: for messages.
        case: regular expression of a case's name. Group 1 is the patient, the rest is the time point.
        edition: decides which label values there may be (editions.py); "" is 2018 or 2023, as the endings say.
        endings: role by regular expression of what follows the case's name, before those of labels.ENDINGS.
        family: schemes of other families do not stand in one data set.
    """

    title: str
    case: str
    edition: str = ""
    endings: Mapping[str, str] = {}
    family: str = ""


SCHEMES = (
    Scheme("BraTS 2013 to 2016", r"(brats_(?:2013|tcia)_pat\d+)_\d+", "2015", {"ot": "label"}, "BraTS"),
    Scheme("BraTS 2017 to 2019", r"(brats1\d_[a-z0-9]+_[a-z0-9]+)_\d+", family="BraTS"),
    Scheme("BraTS 2020", r"(brats20_[a-z]+_\d+)", family="BraTS"),
    Scheme("BraTS 2021", r"(brats2021(?:_[a-z]+)?_\d+)", family="BraTS"),
    Scheme("BraTS 2023 to 2025", r"(brats-(?:[a-z]+-)+\d+)(?:-\d+)?", family="BraTS"),
    Scheme("BraTS-TCGA", r"(tcga-\w\w-\w{4})_\d{4}\.\d\d\.\d\d", "2018", {"glistrboost_manuallycorrected": "label"}),
    Scheme("UPENN-GBM", r"(upenn-gbm-\d+)_\d+", "2018"),
    Scheme("UCSF-PDGM", r"(ucsf-pdgm-\d+)(?:_fu\d+d)?", "2018"),
    Scheme(
        "MU-Glioma-Post",
        r"(patientid_\d+)_timepoint_\d+",
        "2023",
        {"brain_t1c": "t1ce", "brain_t1n": "t1", "brain_t2w": "t2", "brain_t2f": "flair"},
    ),
    Scheme(
        "BIDS",
        r"(sub-[a-z0-9]+)(?:_ses-[a-z0-9]+)?",
        endings={
            r"(.*_)?ce-(?!(none|no|non|pre|without)_).*_t1w": "t1ce",
            r"(.*_)?t1w": "t1",
            r"(.*_)?t2w": "t2",
            r"(.*_)?flair": "flair",
            r"(.*_)?(dseg|label-(lesion|tumou?r)_mask)": "label",
        },
    ),
)
PLAIN = Scheme("NAME_t1ce", "(.+)", family="BraTS")  # any other name that ends as those of BraTS
CHOSEN = Scheme("the given globs", "(.+)", family="BraTS")

# Words of a time point at the end of another name or as a name of a folder: P01_ses-2, P01_1998.09.19.
YEAR, MONTH, DAY = r"(?:19[89]\d|20[0-3]\d)", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
TIME = r"(?:ses|session|tp|time|timepoint|visit|followup|fu|week|month|day)[-_]?\d[\w.-]*"
TIME += r"|baseline|(?:pre|post)(?:[-_]?(?:op|operative|surgery|treatment|rt))?|recurrence|follow[-_]?up"
TIME += rf"|{YEAR}[-.]?{MONTH}[-.]?{DAY}|(?:{DAY}[-.]{MONTH}|{MONTH}[-.]{DAY})[-.]{YEAR}"  # 40012340 is a number
MISNAMED = {"BraTS20_Training_355": "W39_1998.09.19"}  # the one label of a public data set with another case's name
BESIDE = {  # what stands beside the images of a case and is never one of them, by the end of its name
    "mask": r"(\w*_?mask|roi|gtv)",
    "bias field": "(bias|biasfield|bias_field)",
    "another sequence": r"(adc|dwi|swi|asl|dti|dsc|dce|pwi|cbf|cbv|bold|ktrans|t2star|trace|eddy.*)",
    "map of an inference": f"({'|'.join(MAP_ENDINGS)})",
    "another segmentation": r"(\w*segmentation|\w+_segm?|dseg|aseg|parc|probs?|gt|labels?)",
    "with skull": "(unstripped|with_?skull)",
}


class Name(NamedTuple):
    """What the name of a file says: its case, its role (a sequence, label, "other", or "" if it tells none)."""

    case: str
    role: str
    ending: str = ""
    scheme: Scheme = PLAIN
    folder: Path = Path()  # of the case
    reason: str = ""  # why a file of role "other" is not used


def is_volume(path: Path) -> bool:
    """Whether a name is that of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def strip_suffix(path: Path) -> str:
    """The file name without .nii or .nii.gz, composed (NFC): macOS stores ä as two characters."""
    return re.sub(r"\.nii(\.gz)?$", "", unicodedata.normalize("NFC", path.name), flags=re.IGNORECASE)


def read_name(path: Path) -> Name:
    """What a file's name says, or its folder's where that bears the name.

    Raises:
        UserError: if file and folder name two roles.
    """
    bare, folder = strip_suffix(path), path.absolute().parent
    if is_volume(folder):  # Kaggle: BraTS2021_00000_t1ce.nii/00000057_brain_t1ce.nii
        outer, inner = parse(strip_suffix(folder)), parse(bare)
        if outer.role and inner.role in ENDINGS.values() and outer.role != inner.role:
            raise UserError(f"{path} is {inner.role} by its name and {outer.role} by its folder's: rename one of them.")
        bare, folder = strip_suffix(folder), folder.parent
    if match := re.fullmatch(r"VSD\.Brain.*?\.(?:MR_)?(OT|T1c|T1|T2|Flair)\.\d+", bare, re.IGNORECASE):
        while folder.name.upper().startswith("VSD."):
            folder = folder.parent
        bare = f"{folder.name}_{match[1]}"
    if bare.lower() in ENDINGS:  # P01/t1ce.nii.gz, P01/ses-1/t1ce.nii.gz
        timed = re.fullmatch(TIME, folder.name, re.IGNORECASE)
        bare = f"{folder.parent.name}_{folder.name}_{bare}" if timed else f"{folder.name}_{bare}"
    return parse(bare)._replace(folder=folder)


def parse(bare: str) -> Name:
    """What a name without suffix says: by the first scheme of its case, or else by its ending."""
    bare = unicodedata.normalize("NFC", bare)
    for scheme in SCHEMES:
        if re.fullmatch(scheme.case, bare, re.IGNORECASE):
            return Name(bare, "", scheme=scheme)
        if match := re.match(rf"({scheme.case})[_-](?P<ending>.+)", bare, re.IGNORECASE):
            ending = match["ending"].lower()
            known = {**scheme.endings, **{re.escape(key): role for key, role in ENDINGS.items()}}
            role = next((role for pattern, role in known.items() if re.fullmatch(pattern, ending)), "other")
            reason = (beside(ending) or f"no ending of {scheme.title}") if role == "other" else ""
            return Name(match[1], role, ending, scheme, reason=reason)
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if match := re.fullmatch(rf"(.+?)(?:[_-](?:brain|final))?[_-]{ending}", bare, re.IGNORECASE):
            return Name(match[1], ENDINGS[ending], ending)
    ending = last_word(bare)
    reason = beside(bare)
    return Name(bare, "other" if reason else "", ending, reason=reason)


def beside(text: str) -> str:
    """What a file is that stands beside the images, by the end of its name; "" if it may be an image."""
    for reason, words in BESIDE.items():
        if re.fullmatch(rf"(.*[_.-])?{words}", text, re.IGNORECASE):
            return reason
    return ""


def last_word(bare: str) -> str:
    """The word after the last _ or - of a name, in lower case; empty if there is none."""
    match = re.fullmatch(r".+?[_-]([A-Za-z][A-Za-z0-9]*)", bare)
    return match[1].lower() if match else ""


def patient_of(case: str) -> str:
    """The case's name without its time point: follow-ups of a patient never part."""
    for pattern in (*(scheme.case for scheme in SCHEMES), rf"(.+?)[_. -]+(?:{TIME})"):
        if match := re.fullmatch(pattern, case, re.IGNORECASE):
            return match[1]
    return case


def is_of_scheme(case: str) -> bool:
    """Whether a data set's scheme tells the patient of a case."""
    return any(re.fullmatch(scheme.case, case, re.IGNORECASE) for scheme in SCHEMES)


def endings_text(found: Iterable[Path]) -> str:
    """Which endings are known and which were found, for messages."""
    roles = (*SEQUENCES, "label")
    known = "; ".join(f"{role}: {', '.join(key for key, value in ENDINGS.items() if value == role)}" for role in roles)
    names = {path: read_name(path) for path in found}
    unknown = [path for path, name in names.items() if name.role in ("", "other")]
    words = Counter(names[path].ending or strip_suffix(path) for path in unknown or names)
    shown = ", ".join(word for word, _ in words.most_common(8)) or "no NIfTI file"
    return (
        f"Known endings are {known}. Found: {shown}. Rename files, or say which are which: "
        '--t1ce "*_T1post.nii.gz" --label "*_tumour.nii.gz", also --t1, --t2, --flair.'
    )
