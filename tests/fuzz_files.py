"""What test_fuzz.py tries: strategies of Hypothesis for volumes, headers and names, and how they are written."""

from __future__ import annotations

import functools
import gzip
import os
import struct

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

from scripts.data.phantom import draw_patient

TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]  # of voxels
CODES = [(0, 0), (1, 1), (1, 0), (0, 1), (2, 4), (4, 3), (3, 0), (0, 4), (1, 2)]  # of qform and sform
NUMBERS = [0.0, -1.0, np.nan, np.inf, 1e-30, 1e30, 7.0]
DIM, DATATYPE, PIXDIM, SLOPE, MAGIC = 40, 70, 76, 112, 344  # offsets in a header of NIfTI-1


@functools.cache
def patient(number: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sequences and label (network classes) of a phantom of 32³."""
    return draw_patient(np.random.default_rng([5, number]), 32)


def shrunk(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every so many-th voxel."""
    return voxels[np.ix_(*(np.arange(length) * 32 // length for length in shape))]


CONTENT = {
    "z-scored": lambda v: np.where(v > 0, (v - v[v > 0].mean()) / v[v > 0].std(), 0),
    "0 to 1": lambda v: v / v.max(),
    "negative": lambda v: -v,
    "empty": np.zeros_like,
    "constant": lambda v: np.full_like(v, 300),
    "constant brain": lambda v: (v > 0) * 300.0,
    "mask": lambda v: (v > 0) * 1.0,
    "no background": lambda v: v + 1,
    "NaN": lambda v: np.where(v > v.max() * 0.8, np.nan, v),
    "infinity": lambda v: np.where(v > v.max() * 0.8, np.inf, v),
    "huge": lambda v: v * 1e30,
    "tiny": lambda v: v * 1e-36,
    "one voxel": lambda v: np.where(v == v.max(), v, 0),
}


@st.composite
def affines(draw, shape, oblique=(0.0, 0.0, 0.1, -0.3, np.pi / 4)):
    """Affine of a head of 80 to 200 mm along each axis: turned, flipped, oblique (radians), anywhere."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    extent = np.array(draw(st.tuples(*[st.integers(80, 200)] * 3)), float)
    angles = draw(st.tuples(*[st.sampled_from(oblique)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles)[:, order] * signs * (extent / shape)
    affine[:3, 3] = draw(st.tuples(*[st.sampled_from([0.0, -90.5, 123.4, 1e4])] * 3))
    return affine


@st.composite
def volumes(draw, odd=True):
    """A file of one volume, as the arguments of ``write``. ``odd`` breaks some of them."""
    shape = draw(st.tuples(*[st.integers(10, 20)] * 3))
    spec = {"shape": shape, "affine": draw(affines(shape)), "dtype": draw(st.sampled_from(TYPES))}
    spec |= {"order": draw(st.sampled_from("<>")), "version": draw(st.sampled_from([1, 1, 2]))}
    spec |= {"codes": draw(st.sampled_from(CODES[1:])), "unit": draw(st.sampled_from(["mm", "unknown"]))}
    spec |= {"tail": draw(st.sampled_from([(), (), (1,)]))}
    if odd and draw(st.booleans()):
        wrong = draw(st.dictionaries(st.sampled_from(sorted(ODD)), st.just(0), min_size=1, max_size=2))
        spec |= {key: draw(ODD[key]) for key in wrong}
    return spec


ODD = {
    "content": st.sampled_from(sorted(CONTENT)),
    "dtype": st.sampled_from(["c8", "c16", "rgb", "rgba", *TYPES]),
    "codes": st.sampled_from(CODES),
    "unit": st.sampled_from(["meter", "micron", "mm"]),
    "tail": st.sampled_from([(2,), (4,), (1, 1), (1, 3), (0,), (1, 1, 1, 1)]),
    "shape": st.tuples(*[st.sampled_from([1, 2, 3, 12, 20, 28])] * 3) | st.sampled_from([(16, 16), (16,), (0, 9, 9)]),
    "affine": st.sampled_from(["singular", "sheared", "NaN", "tiny", "huge", "left-handed", "float"]),
    "conflict": st.sampled_from(["turned", "scaled", "moved", "mirrored", "rounded"]),
    "pixdim": st.tuples(st.integers(0, 4), st.sampled_from(NUMBERS)),
    "scale": st.tuples(st.sampled_from([*NUMBERS, 1.0, 2.0]), st.sampled_from([*NUMBERS, 10.0])),
    "magic": st.sampled_from([b"n+2\0", b"ni1\0", b"\0\0\0\0", b"n+1 "]),
    "datatype": st.sampled_from([0, 1, 3, 128, 1792, 2304, 9999]),
    "dim": st.tuples(st.integers(0, 7), st.sampled_from([-1, 0, 1, 2, 3, 5, 30000])),
    "flip": st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    "cut": st.floats(0, 0.999),
    "gzip": st.sampled_from(["corrupt", "not", "twice", "trailing", "named .nii"]),
    "empty": st.just(True),
}
AFFINES = {
    "singular": lambda a: a * [1, 0, 1, 1],
    "sheared": lambda a: a @ (np.eye(4) + np.diag([0.4, 0, 0], 1)),
    "NaN": lambda a: np.where(np.eye(4), np.nan, a),
    "tiny": lambda a: a @ np.diag([1e-6, 1e-6, 1e-6, 1]),
    "huge": lambda a: a @ np.diag([1e6, 1e6, 1e6, 1]),
    "left-handed": lambda a: np.diag([-1, 1, 1, 1]) @ a,
    "float": lambda a: a * (1 + 1e-7),
}
CONFLICTS = {
    "turned": lambda a: np.eye(4)[[1, 0, 2, 3]] @ np.diag([-1, 1, 1, 1]) @ a,
    "scaled": lambda a: a @ np.diag([1.5, 1, 1, 1]),
    "moved": lambda a: a + np.eye(4)[:, 3:] @ [[0, 0, 0, 0]] + np.outer([30, 0, 0, 0], [0, 0, 0, 1]),
    "mirrored": lambda a: np.diag([-1, 1, 1, 1]) @ a,
    "rounded": lambda a: a @ np.diag([1.0005, 1, 1, 1]),
}


def typed(voxels, dtype):
    """The voxels in another type, spread over its range."""
    if not voxels.size:
        return np.zeros(voxels.shape, np.int16)
    if dtype in ("rgb", "rgba"):
        result = np.zeros(voxels.shape, [(name, "u1") for name in dtype.upper()])
        result["G"] = np.nan_to_num(voxels).clip(0, 255)
        return result
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        top = np.abs(np.nan_to_num(voxels, posinf=0)).max() or 1
        with np.errstate(invalid="ignore"):
            voxels = np.nan_to_num(voxels / max(top, 1e-30) * min(np.iinfo(kind).max, 2**30), posinf=0).round()
            voxels = voxels.clip(np.iinfo(kind).min, np.iinfo(kind).max)
    with np.errstate(over="ignore"):
        return voxels.astype(kind)


def write(path, spec, voxels=None):
    """Write a volume, and break it as the spec says."""
    shape = spec["shape"]
    if voxels is None:
        voxels = shrunk(patient()[0]["t1ce"], (*shape, 16, 16)[:3] if 0 not in shape else (0, 9, 9))
        content = CONTENT[spec["content"]] if "content" in spec and voxels.size else np.copy
        voxels = typed(content(voxels), spec["dtype"])
        voxels = voxels.reshape(-1)[: int(np.prod(shape))].reshape(shape) if len(shape) < 3 else voxels
    if tail := spec.get("tail"):
        voxels = np.broadcast_to(voxels.reshape(*shape, *(1 for _ in tail)), (*shape, *tail))
    affine = (
        spec["affine"] if not isinstance(spec["affine"], str) else AFFINES[spec["affine"]](np.diag([-9.0, 9, 9, 1]))
    )
    image = (nib.Nifti1Image if spec.get("version", 1) == 1 else nib.Nifti2Image)(voxels, None, dtype=voxels.dtype)
    header = image.header.as_byteswapped(spec.get("order", "<"))
    header.set_data_shape(voxels.shape)
    header["pixdim"][1:4] = nib.affines.voxel_sizes(affine)
    qform, sform = spec.get("codes", (1, 1))
    other = CONFLICTS[spec["conflict"]](affine) if "conflict" in spec else affine
    header.set_sform(affine, sform)
    try:
        header.set_qform(other, qform)
    except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
        header["qform_code"] = qform
    header.set_xyzt_units(spec.get("unit", "mm"))
    if "scale" in spec:
        header["scl_slope"], header["scl_inter"] = spec["scale"]
    header["magic"] = b"n+1" if spec.get("version", 1) == 1 else b"n+2"
    header["vox_offset"] = 352 if spec.get("version", 1) == 1 else 544
    path.write_bytes(pack(path, spec, header, voxels.astype(voxels.dtype.newbyteorder(spec.get("order", "<")))))


def pack(path, spec, header, voxels):
    """The bytes of a file: header, voxels, compression, and their damage."""
    head, order = bytearray(header.binaryblock), spec.get("order", "<")
    if spec.get("version", 1) == 1:
        patches = {"pixdim": (PIXDIM, "f"), "dim": (DIM, "h")}
        for key, (offset, kind) in patches.items():
            if key in spec:
                index, value = spec[key]
                struct.pack_into(order + kind, head, offset + index * struct.calcsize(kind), value)
        if "datatype" in spec:
            struct.pack_into(order + "h", head, DATATYPE, spec["datatype"])
        head[MAGIC : MAGIC + 4] = spec.get("magic", bytes(head[MAGIC : MAGIC + 4]))
    data = bytearray(bytes(head) + bytes(4) + voxels.tobytes(order="F"))
    for offset, value in spec.get("flip", ()):
        if offset < len(data):
            data[offset] = value
    kind, zipped = spec.get("gzip"), path.name.lower().endswith(".gz")
    if (zipped and kind != "not") or (kind == "named .nii" and not zipped):
        data = bytearray(gzip.compress(bytes(data), 1))
        if kind == "corrupt":
            data[len(data) // 2] ^= 255
        data = gzip.compress(bytes(data)) if kind == "twice" else data
    data = data + b"trailing" if kind == "trailing" else data
    return bytes(data[: int(spec.get("cut", 1) * len(data))]) if not spec.get("empty") else b""


# Names. The first part is the patient; words after it may say a sequence, or that the file is no image.
STEMS = st.sampled_from(
    ["P0", "P1", "Ärzte 3", "-rf", "a.b.c", "BraTS-GLI-00001-000", "UPENN-GBM-00001_11", "脑", "x" * 200]
)
STEMS |= st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
WORDS = ["", "_t1ce", "-t1c", "_T1CE", "_t1gd", "_flair", "_t2", "_seg", "_mask", "_0000", "_0001", "_bet", "_brain"]
WORDS += ["", "", "_t1ce", "_T1post", "_adc", "_entropy", "_ses-2", "_t1ce_brain", " (1)"]
ENDINGS = st.sampled_from([".nii.gz", ".nii.gz", ".nii", ".NII.GZ", ".Nii"])
STRANGE = ["folder", "dangling", "hidden", "hidden folder", "text", "json", "pointer", "loop", "link", "nrrd"]


def names():
    return st.builds("{}{}{}".format, STEMS, st.sampled_from(WORDS), ENDINGS)


def write_strange(folder, kind, name):
    """Something in a folder that is no plain volume."""
    path = folder / name
    if path.exists() or path.is_symlink():
        return
    match kind:
        case "folder":
            path.mkdir()
            write(path / "inner.nii.gz", plain())
        case "dangling":
            path.symlink_to("../.git/annex/objects/x")
        case "hidden":
            (folder / f".{name[:200]}").write_bytes(b"x")
        case "hidden folder":
            (folder / ".cache").mkdir(exist_ok=True)
            write(folder / ".cache" / name, plain())
        case "text":
            (folder / "notes.txt").write_text("x")
        case "json":
            (folder / "dataset.json").write_text("[1, 2")
        case "pointer":
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        case "loop":
            (folder / "loop").symlink_to(folder) if not (folder / "loop").exists() else None
        case "link":
            (folder.parent / "elsewhere.nii.gz").exists() or write(folder.parent / "elsewhere.nii.gz", plain())
            os.symlink(folder.parent / "elsewhere.nii.gz", path)
        case "nrrd":
            (folder / "scan.nrrd").write_bytes(b"NRRD0004")


def plain():
    """A volume without any fault."""
    return {"shape": (12, 12, 12), "affine": np.diag([-13.0, -13, 13, 1]), "dtype": "i2"}
