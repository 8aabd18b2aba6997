"""Patients and their scans: scans of one patient are no independent observations, so a patient counts once.

``patient`` is the patient of each case as a datalist said. If a case is not in it, its name tells the patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scripts.folders.schemes import patient_of


def by_patient(cases: Sequence[str], values: Sequence[float], patient: Mapping[str, str]) -> np.ndarray:
    """Each patient's mean over their scans, without NaN.

    Shapes: N cases, N values -> (patients,), in the order of their first cases.
    """
    scans: dict[str, list[float]] = {}
    for case, value in zip(cases, values):
        scans.setdefault(patient.get(case) or patient_of(case), []).append(value)
    return np.array([mean_of(np.array(found)) for found in scans.values()])


def mean_of(values: np.ndarray) -> float:
    """Mean of (N,) values, without NaN; NaN if nothing is left."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def count_patients(cases: Collection[str], patient: Mapping[str, str]) -> int:
    """Number of patients of these cases."""
    return len({patient.get(case) or patient_of(case) for case in cases})


def patients_text(cases: Collection[str], patient: Mapping[str, str]) -> str:
    """So many patients, and of how many scans if a patient has several."""
    count = count_patients(cases, patient)
    scans = f" ({len(cases)} scans)" if len(cases) > count else ""
    return f"{count} patient{'s'[: count != 1]}{scans}"


def named_patients(cases: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The patient of each case that names one."""
    return {case["case"]: case["patient"] for case in cases if {"case", "patient"} <= case.keys()}
