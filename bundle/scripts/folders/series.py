"""Which series of a study is T1ce, and why: by description, contrast tags, kind of image, slices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scripts.folders.dicom import Series
from scripts.folders.slices import absent_slices
from scripts.folders.words import AFTER, BEFORE, DOUBT, NO, OTHERS, PERHAPS, T1, plain

MR_CLASSES = {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"}  # MR
LEAST_MM = 100  # from the first slice to the last; whole heads have 120 and more
ROUGHLY = 1.1  # voxels that differ by less count as equally fine
LONGEST_ECHO, LONGEST_REPETITION = 20, 1200  # ms, of T1 (spin echo; gradient echoes with inversion repeat later)

# Contents of ContrastBolusAgent that tell contrast. Others, such as "saline" and "unknown", do not.
AGENTS = (
    r"gad|\bgd|\bkm\b|\bmdc\b|\bce\b|[ck]ontrast|dota|magne|multih|prohan|omnis|optimar|primov|eovist|clarisc|eluc"
    r"|vuew|ablav|vasov|artir|pixx|cyclolux|applied|\by(es)?\b|\bja\b|\boui\b|true"
)
NO_AGENT = rf"{BEFORE}|\b{NO}\b|unk|false"


@dataclass
class Verdict:
    """What speaks for a series as T1ce, and what against it."""

    series: Series
    reasons: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    asked: bool = False  # a person chose it
    said: bool = False  # the description tells contrast, not the tags alone
    named: bool = False  # the description tells T1, not the times alone
    original: bool = True
    axial: bool = False
    thickness: float = np.inf  # longest edge of a voxel, mm

    @property
    def why(self) -> str:
        return self.against[0] if self.against else "; ".join(self.reasons)


def judge(series: Series) -> Verdict:
    """What speaks for and against a series."""
    verdict = Verdict(series)
    text = plain(series.words)
    kinds = [str(word).upper() for word in np.atleast_1d(series.get("ImageType", []))]
    judge_kind(verdict, kinds)
    others = [name for name, words in OTHERS.items() if re.search(words, text)]
    verdict.named = bool(re.search(T1, text))
    if verdict.named and "T2" not in others:
        others = [name for name in others if name not in ("FLAIR or STIR", "gradient echo")]  # T1 FLAIR is T1
    verdict.against += [f"{name} by its description" for name in others]
    if verdict.named:
        verdict.reasons.append("description says T1")
    elif is_t1(series) and not others:
        verdict.reasons.append("echo and repetition time as of T1")
    elif not others:
        verdict.against.append("neither description nor times tell T1")
    judge_contrast(verdict, text)
    judge_slices(verdict)
    verdict.original = "DERIVED" not in kinds[:1]
    verdict.reasons += [] if verdict.original else ["derived, but no original one fits"]
    return verdict


def judge_kind(verdict: Verdict, kinds: Sequence[str]) -> None:
    """Whether the files are grey MR images."""
    series, against = verdict.series, verdict.against
    if series.get("Modality") != "MR":
        against.append(f"modality {series.get('Modality', 'unknown')}, not MR")
    elif str(series.get("SOPClassUID")) not in MR_CLASSES:
        against.append("no MR image, such as a screenshot or a segmentation")
    if series.number("SamplesPerPixel", 1) != 1:
        against.append("colour image")
    words = {
        "LOCALIZER": "localizer",
        "SUBTRACTION": "subtraction",
        "PROJECTION IMAGE": "projection",
        "MIP": "projection",
    }
    against += [f"{name} by its ImageType" for word, name in words.items() if word in kinds]


def is_t1(series: Series) -> bool:
    """Whether the times are those of T1."""
    echo, repetition, inversion = map(series.number, ("EchoTime", "RepetitionTime", "InversionTime"))
    inverted = 300 <= inversion <= 1300
    return 0 < echo <= LONGEST_ECHO and repetition > 0 and (repetition <= LONGEST_REPETITION or inverted)


def judge_contrast(verdict: Verdict, text: str) -> None:
    """Whether the images were taken after contrast agent: the description counts before the tags."""
    series = verdict.series
    coded = [str(item.get("CodeMeaning", "")) for item in series.get("ContrastBolusAgentSequence", [])]
    agent = str(series.get("ContrastBolusAgent") or ", ".join(coded)).strip()
    empty = series.number("ContrastBolusVolume", 1) <= 0
    given = re.search(AGENTS, plain(agent)) and not re.search(NO_AGENT, plain(agent)) and not empty
    before, after = re.search(BEFORE, text) or re.search(DOUBT, text), re.search(AFTER, text)
    after = after or (None if before else re.search(PERHAPS, text))
    if before and after:
        verdict.against.append(f"description says before ({before[0].strip()}) and after contrast ({after[0].strip()})")
    elif before:
        verdict.against.append(f"before contrast by its description, or unclear ({before[0].strip()})")
    elif after:
        verdict.reasons.append(f"contrast by its description ({after[0].strip()})")
        verdict.said = True
    elif given:
        verdict.reasons.append(f"contrast agent in its tags ({agent})")
    else:
        found = f" (agent {agent!r}{', volume 0' if empty else ''})" if agent else ""
        verdict.against.append(f"no contrast in description or tags{found}")


def judge_slices(verdict: Verdict) -> None:
    """Whether the slices cover a head, and how thick they are."""
    series = verdict.series
    if verdict.against or series.lacking():
        return
    extent = float(np.ptp(series.places))
    if extent < LEAST_MM:
        verdict.against.append(f"covers {extent:.0f} mm, expected at least {LEAST_MM} mm of a head")
    gaps = np.diff(np.sort(series.places))
    verdict.thickness = max(
        [*map(float, series.images[0].PixelSpacing), float(np.median(gaps)) if len(gaps) else np.inf]
    )
    verdict.axial = int(np.argmax(np.abs(series.normal))) == 2
    told, certain = absent_slices(series.images)
    verdict.reasons += [f"perhaps slices are missing: {told}"] if told and not certain else []


def choose(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The best of those that fit; several if they are equal. The others get the reason why another one is better."""
    fit = [verdict for verdict in verdicts if not verdict.against]
    fit = keep(fit, lambda verdict: not (verdict.series.fault() or verdict.series.doubt()), "is whole")
    fit = keep(fit, lambda verdict: verdict.said, "says contrast in its description")
    fit = keep(fit, lambda verdict: verdict.named, "says T1 in its description")
    fit = keep(fit, lambda verdict: verdict.original, "is original")
    finest = min((verdict.thickness for verdict in fit), default=0)
    fit = keep(fit, lambda verdict: verdict.thickness <= ROUGHLY * finest, f"is the finest, {finest:.3g} mm")
    return keep(fit, lambda verdict: verdict.axial, "is axial")


def keep(fit: Sequence[Verdict], better: Callable[[Verdict], bool], reason: str) -> list[Verdict]:
    """Those that are better, or all if none is; the reason is noted against the others."""
    kept = [verdict for verdict in fit if better(verdict)] or list(fit)
    for verdict in fit:
        if verdict not in kept:
            verdict.against.append(f"fits, but another one {reason}")
        elif len(kept) < len(fit):
            verdict.reasons.append(reason)
    return kept
