"""Phantoms look like glioma to each sequence, and are the same for the same seed."""

import resource
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from conftest import BUNDLE
from scripts.data.phantom import draw_patient, make_phantoms
from scripts.errors import UserError


@pytest.fixture(scope="module")
def patients():
    return [draw_patient(np.random.default_rng([0, index]), 40) for index in range(6)]


def contrast(image, label, class_, others):
    """Difference of means over the pooled standard deviation."""
    a, b = image[label == class_], image[others]
    return (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2)


def test_contrasts_are_those_of_glioma(patients):
    oedema = {name: [] for name in ("flair", "t1", "t1ce", "t2")}
    enhancing = {name: [] for name in oedema}
    for images, label in patients:
        for name, image in images.items():
            healthy = (image > 0) & (label == 0)
            oedema[name].append(contrast(image, label, 2, healthy))
            enhancing[name].append(contrast(image, label, 3, healthy))
    oedema, enhancing = ({k: np.median(v) for k, v in table.items()} for table in (oedema, enhancing))
    assert oedema["flair"] > 2
    assert oedema["t2"] > 1
    assert abs(oedema["t1ce"]) < oedema["flair"] / 3  # almost invisible
    assert enhancing["t1ce"] > 1.5
    assert enhancing["t1"] < 0


def test_the_tumour_is_nested_and_in_the_brain(patients):
    for images, label in patients:
        assert all((image[label > 0] > 0).all() for image in images.values())
        assert all((label == class_).sum() > 10 for class_ in (2, 3))
        radius = [
            np.argwhere(label >= 1).std(0).mean() if c == 2 else np.argwhere(label == c).std(0).mean() for c in (2, 3)
        ]
        assert radius[0] > radius[1]
    assert sum((label == 1).any() for _, label in patients) >= 5


def test_folders_are_brats_and_seeded(tmp_path):
    make_phantoms(str(tmp_path / "a"), cases=2, size=32, seed=5)
    make_phantoms(str(tmp_path / "b"), cases=1, size=32, seed=5)
    make_phantoms(str(tmp_path / "c"), cases=1, size=32, seed=6)
    name = "phantom_0000/phantom_0000_t1ce.nii.gz"
    a, b, c = (nib.load(tmp_path / folder / name) for folder in "abc")
    assert np.array_equal(a.dataobj, b.dataobj)
    assert not np.array_equal(a.dataobj, c.dataobj)
    assert a.header.get_zooms() == (5.0, 5.0, 5.0)
    seg = nib.load(tmp_path / "a" / "phantom_0001" / "phantom_0001_seg.nii.gz")
    assert {0, 2, 4} <= set(np.unique(seg.dataobj)) <= {0, 1, 2, 4}


@pytest.mark.parametrize("options, named", [({"size": 16}, "size 16"), ({"cases": 0}, "cases is 0")])
def test_sizes_that_cannot_hold_a_brain_are_named(tmp_path, options, named):
    with pytest.raises(UserError, match=named):
        make_phantoms(str(tmp_path), **{"cases": 1, **options})
    assert not list(tmp_path.iterdir())


def test_no_patient_is_replaced_by_a_phantom(tmp_path):
    kept = tmp_path / "phantom_0001" / "phantom_0001_seg.nii.gz"
    kept.parent.mkdir()
    kept.write_text("real")
    with pytest.raises(UserError, match="output_dir .*phantom_0001"):
        make_phantoms(str(tmp_path), cases=2, size=32)
    assert kept.read_text() == "real" and [path.name for path in tmp_path.iterdir()] == ["phantom_0001"]
    with pytest.raises(UserError, match=f"output_dir .*{kept.name}"):
        make_phantoms(str(kept), cases=1, size=32)


def test_a_file_over_the_limit_of_its_size_ends_in_a_sentence_and_is_not_left(tmp_path):
    line = [sys.executable, "-m", "scripts", "phantom", "--output_dir", str(tmp_path), "--cases", "1", "--size", "32"]
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))}
    result = subprocess.run(line, cwd=BUNDLE, capture_output=True, text=True, timeout=100, **limit)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "phantom_0000_flair.nii.gz" in result.stderr and "ulimit" in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
