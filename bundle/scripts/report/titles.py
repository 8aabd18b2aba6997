"""What a report calls things: words for people instead of names of columns."""

from __future__ import annotations

from typing import NamedTuple

from scripts.evaluation.lesions import MISSED_MM
from scripts.evaluation.metrics import NSD_TOLERANCE_MM


class Column(NamedTuple):
    """A heading, and a sentence that says what it means."""

    title: str
    meaning: str = ""


REGION_TITLES = {"WT": "Whole tumour (WT)", "TC": "Tumour core (TC)", "ET": "Enhancing tumour (ET)"}
REGION_MEANINGS = {
    "WT": "Oedema, necrotic core and enhancing tumour.",
    "TC": "Necrotic core and enhancing tumour.",
    "ET": "Enhancing tumour alone.",
}
RESEARCH = "Research only, not for clinical use."
ERROR_TITLES = {1: "Missed tumour", 2: "False tumour", 3: "Tumour of another class"}
METRICS = {
    "dice": Column("Dice", "Overlap of prediction and truth: 1 is perfect, 0 is none."),
    "hd95": Column(
        "Surface distance, 95th percentile (mm)",
        "95% of each surface lie at most this far from the other one: 0 is perfect.",
    ),
    "nsd": Column(
        f"Surface Dice at {NSD_TOLERANCE_MM:g} mm",
        f"Share of both surfaces that lie within {NSD_TOLERANCE_MM:g} mm of each other: 1 is perfect.",
    ),
    "sensitivity": Column("Sensitivity", "Share of the true tumour that was found."),
    "precision": Column("Precision", "Share of the predicted tumour that is tumour."),
    "volume_error_ml": Column("Volume error (ml)", "Predicted minus true volume: 0 is perfect."),
    "lesion_dice": Column(
        "Lesion-wise Dice", "Mean Dice of all lesions, in which each missed and each false lesion counts 0."
    ),
    "lesion_hd95": Column(
        "Lesion-wise surface distance (mm)",
        f"Mean of all lesions, in which each missed and each false lesion counts {MISSED_MM:g} mm.",
    ),
    "slice_mean_dice": Column("Dice by slice", "The score of the paper. Empty slices count 1, so it says little."),
}
