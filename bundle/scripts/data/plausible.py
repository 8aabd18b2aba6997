"""What shows that a volume cannot be what it is taken for: a skull-stripped brain, a label, or probabilities."""

from __future__ import annotations

import filecmp
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from scripts.data.skull import skull_sign
from scripts.data.volumes import ROUNDING, Finding, Volume, shorten
from scripts.labels import CLASSES, LABEL_VALUES, REGION_NAMES, TARGETS

SHORTEST_MM, LONGEST_MM = 50, 400  # along each axis of a volume that can show a head
SHORTEST_MAP_MM = 1  # of a label map, which may show a part of it: shorter ones count in metres
MOST_NOT_ZERO = 0.9  # share of voxels that are not 0; a brain fills half of its bounding box
LEAST_SPREAD = 0.1  # 5th to 95th percentile of a brain's values, relative to them; real ones have above 0.5
MOST_FLAT = 0.6  # share of bright neighbours in a brain with the same value; real brains: below 0.3, z-scored 0.5
FLAT = 0.005  # of the 99th percentile: values that are closer are the same
LEAST_ML = 50  # of voxels that are not 0; real brains: above 1,100
MOST_ABOVE = 30  # largest value, as a multiple of the 99th percentile; real sequences: below 3
LARGEST = 1e15  # far above it, squares overflow in single precision where mean and deviation are taken
MOST_TUMOUR_ML = 800  # largest tumour of real patients here: 330; brains: above 1,100
MOST_SUM = 1.5  # of a voxel's class probabilities; a spline that overshoots stays below
MOST_OUTSIDE_REGION, FEW = 0.2, 1000  # share of the tumour's voxels, and their number: specks often break the order
MOST_OUTSIDE = 0.5  # share of the tumour where the image is 0; real labels: below 0.001
SAMPLE = 4_000_000  # voxels that are enough to tell
STRIP = "strip the skull (hd-bet, SynthStrip) and set the background to 0; predict also takes --brain_mask"


def image_faults(volume: Volume, used: Iterable[int] = ()) -> list[Finding]:
    """What shows that a volume is no skull-stripped brain on a known grid. Training and prediction ask this.

    Args:
        volume: one sequence, or several as channels.
        used: the channels that networks see, which must not be empty.
    """
    voxels = volume.voxels
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        return [("non-finite voxels (NaN or infinity)", "repair the file, or leave it out")]
    if not (voxels > 0).any():
        return [("empty image (no voxel above 0)", "replace the file, or leave it out")]
    channels = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else [voxels]
    if empty := [str(index) for index in used if not channels[index].any()]:
        fault = f"channel {', '.join(empty)} of 0 to {len(channels) - 1} is empty (no voxel other than 0)"
        return [(fault, "replace the file, or leave it out")]
    spacing = voxel_sizes(volume.affine)
    faults = header_faults(volume, SHORTEST_MM)
    if not faults and not volume.placed:
        fault = "the header has neither qform nor sform code, so left and right are not known"
        faults = [(fault, "convert the file again, or set its orientation and code")]
    return faults or [found for channel in channels for found in brain_faults(channel, spacing)][:1]


def header_faults(volume: Volume, shortest_mm: float = SHORTEST_MAP_MM) -> list[Finding]:
    """What is wrong with size and direction of a volume, image or label map, by its header: at most one finding."""
    extent = np.array(volume.voxels.shape[:3]) * voxel_sizes(volume.affine)
    sizes = " x ".join(f"{length:.3g}" for length in extent)
    if volume.unit != "mm":
        fault = f"the header's unit is {volume.unit} (extent {sizes}), expected mm"
        return [(fault, "write voxel sizes and affine in mm, and the unit mm")]
    if not ((extent >= shortest_mm) & (extent <= LONGEST_MM)).all():
        fault = f"extent {sizes} mm, expected {shortest_mm} to {LONGEST_MM} mm along each axis of a head"
        return [(fault, "correct the voxel size in the header, or give the whole brain")]
    if volume.conflict:
        return [(f"the header contradicts itself: {volume.conflict}", "convert the file again, or correct the header")]
    return []


def brain_faults(voxels: np.ndarray, spacing: np.ndarray) -> list[Finding]:
    """What is wrong with the values of one sequence (H, W, D), at most one finding."""
    values = voxels[voxels != 0]
    share, millilitres = values.size / voxels.size, values.size * float(np.prod(spacing)) / 1000
    if share > MOST_NOT_ZERO:
        return [(f"{share:.0%} of the voxels are not 0, but all outside the brain must be", STRIP)]
    if share == 0:
        return []  # a channel that is not used
    if millilitres < LEAST_ML:
        fault = f"{millilitres:.3g} ml are not 0, expected at least {LEAST_ML} ml of brain"
        return [(fault, "give the whole brain, and set only the background to 0")]
    low, high, top = np.percentile(values[:: len(values) // SAMPLE + 1].astype(np.float32), [5, 95, 99])
    highest = float(max(values.max(), -float(values.min())))
    if highest > MOST_ABOVE * max(abs(low), abs(top)) or highest > LARGEST:
        fault = f"values up to {highest:.3g}, where 99% of the brain are below {top:.3g}"
        return [(fault, f"replace such voxels, and scale the values below {LARGEST:g}: they hide all contrast")]
    remedy = "give the sequence itself, not a mask or a map made of it"
    if high - low < LEAST_SPREAD * max(abs(low), abs(high)):
        return [(f"almost the same value in the whole brain ({low:.3g} to {high:.3g})", remedy)]
    if flatness(voxels, max(abs(low), abs(top))) > MOST_FLAT:
        return [("most neighbours in the brain have the same value, as in a mask or a label map", remedy)]
    return [(sign, STRIP)] if (sign := skull_sign(voxels, spacing)) else []


def flatness(voxels: np.ndarray, top: float) -> float:
    """Share of equal neighbours, up to FLAT of ``top``, among those above half of it: the least of the three axes."""
    shares = []
    apart = int((voxels.size / SAMPLE) ** 0.5) + 1  # of the lines of voxels that are looked at
    for axis in range(3):
        lines = np.moveaxis(voxels, axis, 0)[:, ::apart, ::apart].astype(np.float32)
        bright = np.abs(lines) > top / 2  # not the blurred edge of a mask
        inside = bright[1:] & bright[:-1]
        steps = np.abs(np.diff(lines, axis=0))[inside]
        shares.append(float((steps <= FLAT * top).mean()) if inside.any() else 0.0)
    return min(shares)


def label_faults(voxels: np.ndarray, labels: Collection[int], role: str = "label") -> list[Finding]:
    """Values of a label, or of another program's label map, that have no meaning, and what gives them one."""
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        return [("non-finite voxels (NaN or infinity)", "repair the file, or leave it out")]
    values = set(np.unique(voxels).tolist())
    if not (unknown := sorted(values - set(labels))):
        return []
    editions = {name: known for name, known in LABEL_VALUES.items() if values <= set(known)}
    option = "--target_values"
    if role != TARGETS:  # a datalist has one value a class
        editions = {name: known for name, known in editions.items() if len(known) == len(CLASSES)}
        option = "python -m scripts datalist --label_values"
    also = f", or say what all such files hold: {option} {' or '.join(editions)}" if editions else ""
    return [(f"unknown label values {shorten(unknown)}", f"expected {sorted(labels)}: relabel the file{also}")]


def tumour_faults(tumour_ml: float) -> list[Finding]:
    """What shows that a label marks a brain and no tumour."""
    fault = f"{tumour_ml:,.0f} ml of tumour, expected below {MOST_TUMOUR_ML} ml"
    return [(fault, "replace the label: is it a brain mask?")] if tumour_ml > MOST_TUMOUR_ML else []


def outside_faults(label: np.ndarray, image: np.ndarray, name: str) -> list[Finding]:
    """What shows that a label is of another brain than the image with this file name.

    Shapes: label, image (H, W, D).
    """
    if label.shape != image.shape or not image.any():
        return []  # which is a fault by itself
    outside = image[label > 0] == 0
    if not outside.size or outside.mean() <= MOST_OUTSIDE:
        return []
    fault = f"{outside.mean():.0%} of the tumour lies where {name} is 0, outside of the brain"
    return [(fault, "give the label of this image, in its grid")]


def copy_faults(path: Path, others: Iterable[Path]) -> list[Finding]:
    """Another sequence's file with the same bytes, at most one finding."""
    size = path.stat().st_size
    others = [other for other in others if other != path and other.is_file() and other.stat().st_size == size]
    copies = [other for other in others if filecmp.cmp(other, path, shallow=False)]
    return [(f"the same content as {copy.name}", "replace the one that is not of this sequence") for copy in copies][:1]


def probability_faults(voxels: np.ndarray) -> list[Finding]:
    """What shows that voxels (H, W, D, V) are no probabilities."""
    if not (np.isfinite(voxels).all() and voxels.min() >= -ROUNDING and voxels.max() <= 1 + ROUNDING):
        return [("values that are no probabilities", "expected 0 to 1: give probabilities (after softmax or sigmoid)")]
    if voxels.shape[3] == len(CLASSES) and (largest := voxels.sum(axis=3).max()) > MOST_SUM:
        remedy = f"expected 1: four volumes are {', '.join(CLASSES)}, three are {', '.join(REGION_NAMES)}"
        return [(f"probabilities of four classes that sum up to {largest:.1f}", remedy)]
    likely = voxels >= 0.5
    if voxels.shape[3] == len(REGION_NAMES):
        core, whole, enhancing = (likely[..., REGION_NAMES.index(name)] for name in ("TC", "WT", "ET"))
        outside = (core & ~whole) | (enhancing & ~core)
        if outside.sum() > max(FEW, MOST_OUTSIDE_REGION * likely.any(axis=3).sum()):
            remedy = f"give volumes in the order {', '.join(REGION_NAMES)}"
            return [("regions that do not lie within each other: ET in TC in WT", remedy)]
    return []
