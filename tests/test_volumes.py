"""Volumes that cannot be right are faults in training and in prediction; grids and patients are compared in space."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from nibabel.orientations import axcodes2ornt
from scipy.ndimage import gaussian_filter

from conftest import BUNDLE, real_data
from scripts.data.checks import check_case
from scripts.data.phantom import draw_patient
from scripts.data.plausible import image_faults
from scripts.data.transforms import SelectChannelsd
from scripts.data.volumes import Volume, content_checksum, grid_faults, open_whole, read_volume, reorient
from scripts.inference.checked_images import CheckedImages

SIZE = 32
AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])


@pytest.fixture(scope="module")
def brain():
    return draw_patient(np.random.default_rng([5, 0]), SIZE)[0]["t1ce"]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((SIZE,) * 3).astype(np.float32)


def tissues(brain):
    return np.digitize(gaussian_filter(brain, 1.5), [1, 200, 400, 600]) * (brain > 0) * 50.0


def z_scored(brain):
    inside = brain[brain > 0]
    return np.where(brain > 0, (brain - inside.mean()) / inside.std(), 0).astype(np.float32)


WRONG_VALUES = {
    "constant": lambda brain, noise: np.where(brain > 0, 500.0, 0),
    "constant up to rounding": lambda brain, noise: np.where(brain > 0, 500.0 + 1e-4 * noise, 0),
    "nearly constant": lambda brain, noise: np.where(brain > 0, 500.0 + 5 * noise, 0),
    "constant with a bright spot": lambda brain, noise: np.where(brain > 0, 500.0 + 4000 * (noise > 3), 0),
    "mask": lambda brain, noise: (brain > 0).astype(np.uint8),
    "mask that was resampled": lambda brain, noise: gaussian_filter((brain > 0).astype(np.float32), 0.5),
    "labels": lambda brain, noise: tissues(brain),
    "background of noise": lambda brain, noise: brain + np.abs(noise) + 1,
    "background of another value": lambda brain, noise: z_scored(brain) - 3,
    "little background": lambda brain, noise: np.where(brain > 0, brain, np.abs(noise) * (noise > -1.5)),
    "one hot voxel": lambda brain, noise: np.where(brain == brain.max(), 1e7, brain),
    "values that overflow": lambda brain, noise: brain * 1e30,
    "a few voxels": lambda brain, noise: np.where(np.indices(brain.shape).max(0) < 2, 100 + brain, 0),
    "empty": lambda brain, noise: np.zeros_like(brain),
    "not finite": lambda brain, noise: np.where(brain > 0.9 * brain.max(), np.inf, brain),
}


def faults(path):
    """What the checks of training and of prediction find in one image."""
    training = check_case("p", {"t1ce": path}, ["t1ce"], set()).faults
    entry = {"image": str(path), "case": "p"}
    checked = CheckedImages([entry], Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))[0]
    return [(fault.fault, fault.remedy) for fault in training], (checked.get("fault"), checked.get("remedy"))


def save(path, voxels, affine=AFFINE, unit="mm", placed=True):
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units(unit)
    if not placed:
        image.set_sform(affine, 0)
        image.set_qform(affine, 0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", WRONG_VALUES)
def test_values_that_are_no_brains_are_faults_in_training_and_in_prediction(kind, brain, noise, tmp_path):
    found, predicted = faults(save(tmp_path / "p.nii.gz", WRONG_VALUES[kind](brain, noise).astype(np.float32)))
    assert found == [predicted] and all(predicted)


WRONG_HEADERS = {
    "metre": ({"unit": "meter", "affine": np.diag([0.005, 0.005, 0.005, 1])}, "metre"),
    "metre that are millimetres": ({"unit": "meter"}, "metre"),
    "micrometre": ({"unit": "micron"}, "micrometre"),
    "metre without unit": ({"unit": "unknown", "affine": np.diag([0.005, 0.005, 0.005, 1])}, "0.16 x 0.16 x 0.16 mm"),
    "a small animal": ({"affine": np.diag([0.5, 0.5, 0.5, 1])}, "16 x 16 x 16 mm"),
    "one flat axis": ({"affine": np.diag([5, 5, 1, 1])}, "160 x 160 x 32 mm"),
    "too large": ({"affine": np.diag([5, 20, 5, 1])}, "160 x 640 x 160 mm"),
    "no code": ({"placed": False}, "qform"),
}


def test_a_sequence_that_is_a_copy_of_another_is_a_fault_in_training_and_in_prediction(brain, tmp_path):
    files = {
        role: save(tmp_path / f"p_{role}.nii", brain * scale) for role, scale in {"t1ce": 1, "t1": 1, "t2": 2}.items()
    }
    (found,) = check_case("p", files, list(files), set()).faults
    assert found.file == str(files["t1"]) and found.fault == "the same content as p_t1ce.nii"
    entry = {"image": [str(path) for path in files.values()], "case": "p"}
    checked = CheckedImages([entry], Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))[0]
    assert checked["fault"] == "p_t1.nii: the same content as p_t1ce.nii"


@pytest.mark.parametrize("kind", WRONG_HEADERS)
def test_headers_that_contradict_a_head_are_faults_in_training_and_in_prediction(kind, brain, tmp_path):
    options, named = WRONG_HEADERS[kind]
    found, predicted = faults(save(tmp_path / "p.nii.gz", brain, **options))
    assert found == [predicted] and named in predicted[0]


@pytest.mark.parametrize("kind", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_numbers_are_a_fault_in_training_and_in_prediction(kind, brain, tmp_path):
    found, predicted = faults(save(tmp_path / "p.nii.gz", brain.astype(kind)))
    assert "voxels of type" in found[0][0] and "one channel" in found[0][1] and "type" in predicted[0]


@pytest.mark.parametrize("axes", [2, 3])
def test_a_volume_with_further_axes_is_to_be_saved_without_them(axes, brain, tmp_path):
    found, predicted = faults(save(tmp_path / "p.nii.gz", brain[(..., *[None] * axes)]))
    assert found == [predicted] == [(f"shape {(*brain.shape, *[1] * axes)}, expected a 3-D volume (one of a series)",
                                     "save it as a 3-D volume")]  # fmt: skip


@pytest.mark.parametrize("length, error", [(SIZE, MemoryError), (30_000, ValueError)])
def test_too_little_memory_is_no_fault_of_a_file_that_may_hold_its_voxels(length, error, brain, tmp_path):
    data = bytearray(save(tmp_path / "p.nii", brain).read_bytes())
    data[42:48] = np.full(3, length, "<i2").tobytes()  # of the axes, in the header
    (tmp_path / "p.nii").write_bytes(data)
    with pytest.raises(error, match=None if error is MemoryError else "^unreadable"), open_whole(tmp_path / "p.nii"):
        raise MemoryError


def qform(moved=0.0, degrees=0.0, code=1, flips=(1, 1, 1)):
    """A change of a header: its qform is another one than its sform."""
    affine = np.diag([-5.0, 5.0, 5.0, 1.0]) @ np.diag([*flips, 1])
    affine[:3, :3] = nib.eulerangles.euler2mat(np.radians(degrees)) @ affine[:3, :3]
    affine[1, 3] = moved
    return lambda header: header.set_qform(affine, code)


def not_normal(header):
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 1.00001, 0


CONFLICTS = {
    "pixdim": (lambda header: header["pixdim"].__setitem__(1, 7.5), "pixdim"),
    "mirrored": (lambda header: header["pixdim"].__setitem__(0, 1), "mirror"),
    "rounded": (lambda header: header["pixdim"].__setitem__(1, 5.001), None),
    "turned by 180 degrees": (qform(flips=(-1, -1, 1)), "by 180 degrees"),
    "turned by 20 degrees": (qform(degrees=20), "by 20 degrees"),
    "moved by 80 mm": (qform(moved=80), "80 mm apart"),
    "moved and turned a little": (qform(moved=2.5, degrees=1), None),
    "no code": (qform(moved=80, flips=(-1, -1, 1), code=0), None),
    "scanner and atlas": (qform(moved=80, degrees=20, flips=(-1, -1, 1), code=4), None),
    "scanner and a mirrored atlas": (qform(flips=(-1, 1, 1), code=4), "mirror"),
    "quaternion that is rounded": (not_normal, None),
}


def contradicting(path, voxels, change):
    image = nib.Nifti1Image(voxels, None)
    image.header.set_sform(np.diag([-5.0, 5.0, 5.0, 1.0]), 1)
    image.header.set_qform(np.diag([-5.0, 5.0, 5.0, 1.0]), 1)
    change(image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", CONFLICTS)
def test_a_header_that_contradicts_itself_is_a_fault_in_training_and_in_prediction(kind, brain, tmp_path):
    change, named = CONFLICTS[kind]
    found, predicted = faults(contradicting(tmp_path / "p.nii", brain, change))
    assert (found == [predicted] and named in predicted[0]) if named else found == []


@pytest.mark.parametrize("kind", [*CONFLICTS, "metre"])
def test_labels_are_asked_for_the_same_headers_as_images(kind, brain, tmp_path):
    change, named = CONFLICTS.get(kind, (lambda header: header.set_xyzt_units("meter"), "unit is metre"))
    files = {
        "t1ce": contradicting(tmp_path / "p_t1ce.nii", brain, lambda header: None),
        "label": contradicting(tmp_path / "p_seg.nii", np.zeros(brain.shape, np.uint8), change),
    }
    found = check_case("p", files, ["t1ce", "label"], {0, 1, 2, 4}).faults
    assert len(found) == bool(named) and all(named in fault.fault and fault.file.endswith("seg.nii") for fault in found)


def corrupt_checksum(data):
    data[-8] ^= 1


def corrupt_voxels(data):
    data[len(data) // 2 : len(data) // 2 + 50] = bytes([7]) * 50


def cut(data):
    del data[-8:]


@pytest.mark.parametrize("damage", [corrupt_checksum, corrupt_voxels, cut])
def test_a_damaged_gzip_file_is_a_fault_in_training_and_in_prediction(damage, brain, tmp_path):
    """nibabel reads all of them without a word: it stops at the last voxel, before gzip's checksum."""
    save(tmp_path / "p.nii", brain)
    data = bytearray(gzip.compress((tmp_path / "p.nii").read_bytes(), 0))
    (tmp_path / "p.nii.gz").write_bytes(data)
    assert faults(tmp_path / "p.nii.gz") == ([], (None, None))
    damage(data)
    (tmp_path / "p.nii.gz").write_bytes(data)
    np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj)
    (training,), (prediction, _) = faults(tmp_path / "p.nii.gz")
    assert "unreadable or truncated (" in training[0] and training[0] == prediction


def test_grids_of_tiny_voxels_are_not_equal_because_they_are_close(brain):
    small = Volume(brain, np.diag([0.04, 0.04, 0.04, 1]))
    moves = [np.array([[0, 0, 0, mm], *[[0] * 4] * 3]) for mm in (0.009, 0.08)]
    near, far = (small._replace(affine=small.affine + move) for move in moves)
    assert grid_faults(near, small, "a") == [] and "0.08 mm" in grid_faults(far, small, "a")[0][0]


def test_another_orientation_of_the_same_grid_is_told_from_another_grid(brain, tmp_path):
    """It stays a fault, because paper.yaml and stacked sequences do not turn volumes."""
    label = ((brain > 0) & (brain[::-1, ::-1] == 0)).astype(np.uint8)
    turned = nib.as_closest_canonical(nib.Nifti1Image(label, AFFINE))
    (found,) = label_case(tmp_path, brain, np.asarray(turned.dataobj), turned.affine).faults
    assert label.any() and found.fault == "its axes are RAS, those of p_t1ce.nii.gz LPS"
    assert found.remedy.startswith("other orientation: reorder its axes to LPS")
    flair = nib.as_closest_canonical(nib.Nifti1Image(brain + 1 * (brain > 0), AFFINE))
    save(tmp_path / "p_flair.nii.gz", np.asarray(flair.dataobj), flair.affine)
    entry = {"image": [str(tmp_path / f"p_{role}.nii.gz") for role in ("t1ce", "flair")], "case": "p"}
    assert found.fault in CheckedImages([entry], Compose([LoadImaged("image")]))[0]["fault"]
    first = Volume(np.zeros((4, 5, 6)), AFFINE)
    lying = reorient(first, axcodes2ornt("SRA"))  # and so of another shape
    assert grid_faults(lying, first, "a")[0][0] == "its axes are SRA, those of a LPS"
    moved = lying._replace(affine=lying.affine + np.eye(4)[:, [3, 3, 3, 0]] * 9)
    assert "shape" in grid_faults(moved, first, "a")[0][0]


RIGHT = {
    "raw": lambda brain: brain,
    "z-scored": z_scored,
    "from 0 to 1": lambda brain: brain / brain.max(),
    "8 bits": lambda brain: (brain / brain.max() * 255).round().astype(np.uint8),
    "big-endian": lambda brain: brain.round().astype(">i2"),
    "one channel": lambda brain: brain[..., None],
}


@pytest.mark.parametrize("kind", RIGHT)
def test_brains_of_every_scale_and_type_are_none(kind, brain, tmp_path):
    assert faults(save(tmp_path / "p.nii.gz", RIGHT[kind](brain), unit="unknown")) == ([], (None, None))


def test_each_sequence_of_a_4d_file_is_looked_at(brain):
    mask = (brain > 0).astype(np.float32)
    assert not image_faults(Volume(np.stack([brain, brain * 2], -1), AFFINE))
    assert image_faults(Volume(np.stack([brain, mask], -1), AFFINE))


def test_an_empty_channel_of_a_4d_file_is_a_fault_where_it_is_used(brain, tmp_path):
    path = save(tmp_path / "p.nii.gz", np.stack([brain, 0 * brain], -1))
    files, channels = dict.fromkeys(["t1ce", "flair"], path), {"t1ce": 0, "flair": 1}
    assert not check_case("p", files, ["t1ce"], set(), channels).faults
    (found,) = check_case("p", files, ["t1ce", "flair"], set(), channels).faults
    assert found.fault == "channel 1 of 0 to 1 is empty (no voxel other than 0)"
    for used, fault in ((0, None), (1, found.fault)):  # by a prediction
        entry = {"image": str(path), "case": "p", "channels": {"image": [used], "volumes": 2}}
        steps = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SelectChannelsd("image")])
        assert CheckedImages([entry], steps)[0].get("fault") == fault


def test_a_label_of_the_whole_brain_is_a_fault(brain, tmp_path):
    (found,) = label_case(tmp_path, brain, (brain > 0).astype(np.uint8)).faults
    assert found.file.endswith("p_seg.nii.gz") and "869 ml of tumour" in found.fault


@pytest.mark.slow
def test_real_patients_have_no_fault():
    for name in ("brats_1mm", "brats_2mm", "brats_2mm_more", "brats_2mm_unlabelled", "site_2mm"):
        paths = [path for path in real_data(name).glob("*/*.nii.gz") if "seg" not in path.name]
        assert paths
        assert not [path for path in paths if image_faults(read_volume("t1ce", {"t1ce": path}, 1))]


def label_case(tmp_path, brain, label, affine=AFFINE):
    image = save(tmp_path / "p_t1ce.nii.gz", brain)
    files = {"t1ce": image, "label": save(tmp_path / "p_seg.nii.gz", label, affine)}
    return check_case("p", files, ["t1ce", "label"], {0, 1, 2, 4})


def moved(shift=0.0, scale=1.0):
    affine = AFFINE @ np.diag([scale, scale, scale, 1])
    affine[0, 3] += shift
    return affine


@pytest.mark.parametrize(
    "affine, words",
    [
        (moved(0.002), None),
        (moved(-0.05), None),
        (moved(scale=1 + 1e-6), None),
        (moved(0.7), ("0.7 mm", "round")),
        (moved(4), ("4 mm", "register")),
        (moved(scale=1.05), ("mm", "register")),  # the far corner is 13 mm off
    ],
)
def test_grids_are_compared_in_millimetres(affine, words, brain, tmp_path):
    found = label_case(tmp_path, brain, np.zeros(brain.shape, np.uint8), affine).faults
    assert len(found) == (words is not None)
    if words:
        assert words[0] in found[0].fault and words[1] in found[0].remedy
        assert ("register" in found[0].remedy) is (words[1] == "register")


def test_label_values_that_are_whole_up_to_rounding_are_whole(brain, tmp_path):
    label = np.zeros(brain.shape, np.float32)
    label[10:12], label[12:13], label[14:15] = 0.99999994, 2.0000002, 3.9999998
    label *= brain > 0
    report = label_case(tmp_path, brain, label)
    assert report.faults == [] and report.label_values == {0, 1, 2, 4}
    label[20, :8] = 1.4
    (fault,) = label_case(tmp_path, brain, label).faults
    assert "1.4" in fault.fault and "0.9999" not in fault.fault


def stored(path, image, dtype=None, order="LPS"):
    """The same patient, written in another way."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(order)
    )
    turned = image.as_reoriented(turn)
    voxels = np.asarray(turned.dataobj)
    nib.save(nib.Nifti1Image(voxels.astype(dtype or voxels.dtype), turned.affine), path)
    return content_checksum(read_volume("t1ce", {"t1ce": path}, 1))


def test_a_patient_is_the_same_in_any_orientation_type_and_order(brain, tmp_path):
    image = nib.Nifti1Image(brain.round().astype(np.int16), AFFINE)
    first = stored(tmp_path / "0.nii.gz", image)
    for order in ("LPS", "RAS", "SPL", "AIR"):
        for dtype in (np.int16, np.float32, np.float64, ">i2", np.int32, np.uint16):
            assert stored(tmp_path / "1.nii.gz", image, dtype, order) == first
    nearly = nib.Nifti1Image(np.nextafter(brain.round(), np.float32(1e9)), AFFINE)
    assert stored(tmp_path / "2.nii.gz", nearly) == first
    other = brain.round()
    other[16, 16, 16] += 1
    assert stored(tmp_path / "3.nii.gz", nib.Nifti1Image(other, AFFINE)) != first
    assert stored(tmp_path / "4.nii.gz", nib.Nifti1Image(brain.round()[::-1], AFFINE)) != first


def test_a_float_patient_is_the_same_in_double_precision(brain, tmp_path):
    image = nib.Nifti1Image(z_scored(brain), AFFINE)
    assert stored(tmp_path / "0.nii.gz", image) == stored(tmp_path / "1.nii.gz", image, np.float64, "RAS")


def test_a_background_of_minus_0_is_one_of_0(brain, tmp_path):
    for voxels in (z_scored(brain), brain.astype(np.float64)):
        first = content_checksum(read_volume("t1ce", {"t1ce": save(tmp_path / "0.nii", voxels)}, 1))
        other = np.where(voxels == 0, -0.0, voxels).astype(voxels.dtype)
        assert content_checksum(read_volume("t1ce", {"t1ce": save(tmp_path / "1.nii", other)}, 1)) == first


def test_the_patients_of_the_shipped_weights_are_recognised_also_as_floats(tmp_path):
    known = json.loads((BUNDLE / "docs" / "trained_on.json").read_text())["training"]
    folders = [real_data("brats_2mm"), real_data("brats_2mm_more")]
    for index, entry in enumerate(known):
        (path,) = (path for folder in folders for path in (folder / entry["case"]).glob("*_t1ce.nii.gz"))
        assert content_checksum(read_volume("t1ce", {"t1ce": path}, 1)) == entry["checksum"]
        if index < 3:
            assert stored(tmp_path / "f.nii.gz", nib.load(path), np.float32, "RAS") == entry["checksum"]


@pytest.mark.parametrize("name", ["whole.nii", "plain.nii.gz"])
def test_a_file_whose_end_does_not_say_whether_it_is_compressed_is_named(name, tmp_path):
    image = nib.Nifti1Image(np.ones((60, 60, 60), np.float32), np.eye(4))
    right = tmp_path / ("a.nii.gz" if name == "whole.nii" else "a.nii")
    nib.save(image, right)
    right.rename(tmp_path / name)
    with pytest.raises(ValueError, match="compressed and named .nii, or the reverse, so rename it"):
        read_volume("t1ce", {"t1ce": tmp_path / name}, 1)
