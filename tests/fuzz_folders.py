"""What test_fuzz.py tries: folders of patients in the known naming schemes, and what goes wrong in them."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
from hypothesis import strategies as st

import fuzz_files as fuzz

ROLES = ["t1ce", "t1", "t2", "flair", "label"]
NAMES_2018 = {"label": "seg"}
NAMES_2023 = {"t1ce": "t1c", "t1": "t1n", "t2": "t2w", "flair": "t2f", "label": "seg"}
UPENN = {"t1ce": "T1GD", "t1": "T1", "t2": "T2", "flair": "FLAIR"}
UCSF = {"t1ce": "T1c", "t1": "T1", "t2": "T2", "flair": "FLAIR", "label": "tumor_segmentation"}
BIDS = {"t1ce": "ce-gd_T1w", "t1": "T1w", "t2": "T2w", "flair": "FLAIR", "label": "dseg"}
SCHEMES = {  # path by patient and role
    "BraTS 2020": lambda p, r: f"BraTS20_Training_{p:03d}/BraTS20_Training_{p:03d}_{NAMES_2018.get(r, r)}.nii.gz",
    "BraTS 2023": lambda p, r: f"BraTS-GLI-{p:05d}-000/BraTS-GLI-{p:05d}-000-{NAMES_2023[r]}.nii.gz",
    "follow-ups": lambda p, r: f"BraTS-GLI-00001-00{p}/BraTS-GLI-00001-00{p}-{NAMES_2023[r]}.nii.gz",
    "flat": lambda p, r: f"P{p}_{NAMES_2018.get(r, r)}.nii",
    "parts": lambda p, r: f"labels/P{p}_seg.nii.gz" if r == "label" else f"images/P{p}_{r}.nii.gz",
    "folders": lambda p, r: f"P{p}/{NAMES_2018.get(r, r)}.nii.gz",
    "visits": lambda p, r: f"P{p // 2}/ses-{p % 2}/{NAMES_2018.get(r, r)}.nii.gz",
    "UPENN": lambda p, r: (
        f"images_segm/UPENN-GBM-{p:05d}_11_segm.nii.gz"
        if r == "label"
        else f"images_structural/UPENN-GBM-{p:05d}_11/UPENN-GBM-{p:05d}_11_{UPENN[r]}.nii.gz"
    ),
    "UCSF": lambda p, r: f"UCSF-PDGM-{p:04d}_nifti/UCSF-PDGM-{p:04d}_{UCSF[r]}.nii.gz",
    "BIDS": lambda p, r: f"sub-{p:02d}/anat/sub-{p:02d}_{BIDS[r]}.nii.gz",
    "nnU-Net": lambda p, r: (
        f"labelsTr/C_{p:03d}.nii.gz" if r == "label" else f"imagesTr/C_{p:03d}_000{ROLES.index(r)}.nii.gz"
    ),
    "MSD": lambda p, r: f"labelsTr/B_{p:03d}.nii.gz" if r == "label" else f"imagesTr/B_{p:03d}.nii.gz",
}
DOCUMENTS = {
    "nnU-Net": {"channel_names": dict(enumerate(ROLES[:4])), "labels": {"background": 0, "ED": 1, "NCR": 2, "ET": 3}},
    "MSD": {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}},
}
VALUES = {"BraTS 2023": (0, 1, 2, 3), "follow-ups": (0, 1, 2, 3), "nnU-Net": (0, 2, 1, 3), "MSD": (0, 2, 1, 3)}
LABELS = {  # what becomes of the values on disk
    "rounded": lambda v: v * np.float32(0.9999999),
    "nearly": lambda v: v + np.where(v > 0, 5e-4, 0),
    "half": lambda v: v * 0.5,
    "NaN": lambda v: np.where(v > 1, np.nan, v),
    "negative": lambda v: -1.0 * v,
    "other edition": lambda v: np.select([v == 4, v == 3], [3, 4], v),
    "unknown": lambda v: np.where(v > 0, v + 5, 0),
    "binary": lambda v: (v > 0) * 1,
    "empty": lambda v: v * 0,
    "bytes": lambda v: v.astype(np.uint8),
    "image": lambda v: fuzz.shrunk(fuzz.patient(2)[0]["t2"], v.shape),
}
CHANGES = ["drop", "drop", "twice", "rename", "odd", "label", "label", "size", "moved", "dangling", "beside", "copy",
           "folder", "hidden", "strange", "other scheme"]  # fmt: skip
BESIDE = ["P0_mask.nii.gz", "notes.txt", "P1_adc.nii.gz", "x.nii.gz", "t1ce.nii.gz", "seg.nii.gz", "scan.mha",
          "BraTS20_Training_000_t1ce_bias.nii.gz", "sub-00_T1w.json", "P0_t1gd.nii", "C_000_0009.nii.gz", "B_000.nii",
          "P9_seg.nii.gz", "P9-t1c.nii.gz", "imagesTs/B_008.nii.gz", "imagesTs/C_008_0000.nii.gz"]  # fmt: skip
SHAPE = (12, 12, 12)


@st.composite
def changes(draw):
    """What is done to one file of a folder, as the arguments of ``change``."""
    kind, patient, role = draw(st.sampled_from(CHANGES)), draw(st.integers(0, 3)), draw(st.sampled_from(ROLES))
    value = {
        "rename": st.sampled_from(["_T1post", "_seg", "-t1ce", "_t1ce", "_flair", "_mask", "", "_t1ce_bet", " copy"]),
        "odd": fuzz.volumes(),
        "label": st.sampled_from(sorted(LABELS)),
        "moved": st.sampled_from([1e-3, 0.05, 0.5, 40.0]),
        "beside": st.sampled_from(BESIDE),
        "copy": st.integers(0, 3),
        "strange": st.tuples(st.sampled_from(fuzz.STRANGE), fuzz.names()),
        "other scheme": st.sampled_from(sorted(SCHEMES)),
    }
    return kind, patient, role, draw(value.get(kind, st.none()))


def cohorts():
    """(scheme, number of patients, changes, options of make_datalist)."""
    options = st.fixed_dictionaries(
        {"folds": st.integers(1, 3), "strict": st.booleans(), "sequences": st.sampled_from([None, ["t1ce"]])}
    )
    return st.tuples(st.sampled_from(sorted(SCHEMES)), st.integers(2, 4), st.lists(changes(), max_size=3), options)


def values_of(patient, role, scheme):
    """Voxels of one file."""
    images, label = fuzz.patient(patient)
    if role == "label":
        return np.asarray(VALUES.get(scheme, (0, 1, 2, 4)), np.int16)[fuzz.shrunk(label, SHAPE)]
    if scheme == "MSD":
        return np.stack([fuzz.shrunk(images[name], SHAPE) for name in ("flair", "t1", "t1ce", "t2")], -1)
    return fuzz.shrunk(images[role], SHAPE)


def write_patient(root, scheme, patient):
    for role in ROLES if scheme != "MSD" else ["t1ce", "label"]:
        path = root / SCHEMES[scheme](patient, role)
        path.parent.mkdir(parents=True, exist_ok=True)
        fuzz.write(path, fuzz.plain(), values_of(patient, role, scheme))


def write_cohort(root, scheme, number, changed):
    """Write a folder of patients, then change it."""
    for patient in range(number):
        write_patient(root, scheme, patient)
    if scheme in DOCUMENTS:
        (root / "dataset.json").write_text(json.dumps(DOCUMENTS[scheme]))
    for kind, patient, role, value in changed:
        with contextlib.suppress(OSError):
            change(root, scheme, kind, patient % number, role, value)


def change(root, scheme, kind, patient, role, value):
    path = root / SCHEMES[scheme](patient, role)
    spec = fuzz.plain()
    if kind in ("drop", "dangling", "folder", "twice", "rename", "copy") and path.is_file():
        content = path.read_bytes()
        path.unlink()
        match kind:
            case "dangling":
                path.symlink_to("../.git/annex/objects/x")
            case "folder":
                path.mkdir()
                (path / path.name).write_bytes(content)
            case "twice":
                path.write_bytes(content)
                other = path.name.partition(".")[0] + (".nii" if path.suffix == ".gz" else ".nii.gz")
                fuzz.write(path.with_name(other), spec, values_of(patient, role, scheme))
            case "rename":
                stem = path.name.partition(".")[0]
                path.with_name(stem.rpartition("_")[0] + value + ".nii.gz").write_bytes(content)
            case "copy":
                path.write_bytes(content)
                shutil.copy(root / SCHEMES[scheme](value, role), path)
    elif kind == "odd":
        fuzz.write(path, value)
    elif kind == "label":
        label = root / SCHEMES[scheme](patient, "label")
        fuzz.write(label, spec, LABELS[value](values_of(patient, "label", scheme)))
    elif kind == "size":
        fuzz.write(path, spec, values_of(patient, role, scheme)[:-1])
    elif kind == "moved":
        spec["affine"][0, 3] += value
        fuzz.write(path, spec, values_of(patient, role, scheme))
    elif kind == "beside":
        (root / value).parent.mkdir(exist_ok=True)
        fuzz.write(root / value, spec, values_of(patient, "t1ce", scheme))
    elif kind == "hidden":
        shutil.copy(path, path.with_name("._" + path.name))
    elif kind == "strange":
        fuzz.write_strange(path.parent, *value)
    elif kind == "other scheme":
        write_patient(root, value, patient)
