"""Volumes for the report's viewer, NiiVue: small NIfTI files, as text in scripts.

A page that is opened from a disk may run the scripts beside it but not read other files, so volumes travel in scripts.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import nibabel as nib
import numpy as np

from scripts.labels import CLASS_COLOURS, CLASS_TITLES, ERROR_COLOURS
from scripts.report.layers import Patient
from scripts.report.titles import ERROR_TITLES

LEVELS = {"image": 127, "uncertainty": 31}  # shades, which are enough for the eye and halve the files


def volumes_of(patient: Patient) -> dict[str, Any]:
    """The image and its layers as base64 of compressed NIfTI; brightness 0 is background."""
    grey = np.where(patient.image[patient.box] != 0, 1 + patient.grey * (LEVELS["image"] - 1), 0)
    layers = []
    for layer in patient.layers:
        voxels = layer.voxels * LEVELS["uncertainty"] if layer.kind == "uncertainty" else layer.voxels
        layers.append({"title": layer.title, "kind": layer.kind, "data": encoded(voxels, patient.box_affine)})
    centre = nib.affines.apply_affine(patient.box_affine, patient.centre).tolist()  # mm
    return {"image": encoded(grey, patient.box_affine), "layers": layers, "centre": centre}


def encoded(voxels: np.ndarray, affine: np.ndarray) -> str:
    """Base64 of a compressed NIfTI file of bytes."""
    image = nib.Nifti1Image(voxels.round().astype(np.uint8), affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()


def script_of(number: int, name: str, volumes: dict[str, Any]) -> str:
    """A script that hands a patient's volumes to the page; ``number`` is the patient's place in it."""
    script = f"addVolumes({number}, {json.dumps(name)}, {json.dumps(volumes)});\n"
    return script.replace("<", "\\u003c")  # a name must not end the script


def colour_tables() -> dict[str, dict[str, Any]]:
    """What the page needs to draw and explain each kind of layer: colours, their meanings, the largest value."""
    tables = {"classes": (CLASS_COLOURS, CLASS_TITLES), "errors": (ERROR_COLOURS, ERROR_TITLES)}
    named = {
        kind: {"colours": [{"value": value, "colour": colours[value], "title": titles[value]} for value in colours]}
        for kind, (colours, titles) in tables.items()
    }
    return {**named, "uncertainty": {"most": LEVELS["uncertainty"]}, "image": {"most": LEVELS["image"]}}
