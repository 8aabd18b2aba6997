import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.errors import UserError
from scripts.evaluation.metrics import COLUMNS
from scripts.labels import CLASS_COLOURS
from scripts.report.overview import overview


def evaluated(folder, cohort, dice):
    """An evaluation's output: copies of the truth, and given whole-tumour Dice."""
    folder.mkdir()
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "region", *COLUMNS])
        for case, value in dice.items():
            rest = [""] * (len(COLUMNS) - 1)
            writer.writerows([case, name, v, *rest] for name, v in (("TC", 0.5), ("WT", value), ("ET", 0.25)))
            shutil.copy(cohort / "data" / case / f"{case}_seg.nii.gz", folder)
    return str(folder)


@pytest.fixture
def runs(cohort_source, tmp_path):
    """Two runs of three patients, the third of whom is the median."""
    dice = {"phantom_0000": 0.3, "phantom_0001": 0.9, "phantom_0002": 0.6}
    return ",".join(f"{name}={evaluated(tmp_path / name, cohort_source, dice)}" for name in ("a", "b"))


def test_the_command_prints_mean_dice_and_names_the_median_case(runs, cohort_source, tmp_path, command):
    picture = tmp_path / "new" / "picture.png"
    options = ["--dataset_dir", cohort_source / "data", "--runs", runs, "--picture", picture]
    printed = command("scripts", "overview", *options).stdout
    assert "mean of 3 cases" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("a ")]
    assert rows == [["a", "0.600", "0.500", "0.250", "0.450"]]
    assert f"phantom_0002 is drawn in {picture}" in printed and picture.is_file()


def test_truth_and_predictions_are_drawn_on_the_slice_with_most_tumour(runs, cohort_source, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "imshow", lambda axis, pixels: drawn.append(pixels))
    empty = nib.Nifti1Image(np.zeros((32, 32, 32), np.uint8), np.eye(4))
    nib.save(empty, tmp_path / "b" / "phantom_0002_seg.nii.gz")
    overview(str(cohort_source / "data"), runs, str(tmp_path / "p.png"))
    scan, truth, same, nothing = drawn
    assert np.array_equal(truth, same) and np.array_equal(scan, nothing)
    label = nib.load(cohort_source / "data" / "phantom_0002" / "phantom_0002_seg.nii.gz")
    tumour = np.asarray(nib.as_closest_canonical(label).dataobj) > 0
    index = tumour.sum((0, 1)).argmax()
    left_on_the_right = np.rot90(tumour[::-1, :, index])
    assert np.array_equal((truth != scan).any(-1), left_on_the_right) and (tumour != tumour[::-1]).any()
    assert len(np.unique(truth[(truth != scan).any(-1)], axis=0)) >= len(CLASS_COLOURS)


def test_runs_that_do_not_fit_together_are_named(cohort_source, tmp_path):
    a, b = (f"{name}={evaluated(tmp_path / name, cohort_source, {f'phantom_000{name}': 0.5})}" for name in "12")
    data, picture = str(cohort_source / "data"), str(tmp_path / "p.png")
    with pytest.raises(UserError, match="'1', '2'"):
        overview(data, f"{a},{b}", picture)
    with pytest.raises(UserError, match="case is 'x'.*phantom_0001"):
        overview(data, a, picture, case="x")
    with pytest.raises(UserError, match="dataset_dir .*phantom_0001"):
        overview(str(cohort_source / "data" / "phantom_0003"), a, picture)
    unlabelled = shutil.copytree(cohort_source / "data" / "phantom_0001", tmp_path / "in" / "phantom_0001").parent
    (unlabelled / "phantom_0001" / "phantom_0001_seg.nii.gz").unlink()
    with pytest.raises(UserError, match="phantom_0001 of .* has no label: give the folder that has it"):
        overview(str(unlabelled), a, picture)
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        overview(data, f"none={tmp_path / 'none'}", picture)
    with pytest.raises(UserError, match="runs is "):
        overview(data, str(tmp_path), picture)


def test_patients_of_the_decathlon_are_drawn_with_their_own_channels_and_values(cohort_source, tmp_path):
    """The same patient in both layouts gives the same picture."""
    case, data = "phantom_0001", tmp_path / "msd"
    source = cohort_source / "data" / case
    scans = [nib.load(source / f"{case}_{name}.nii.gz") for name in ("flair", "t1", "t1ce", "t2")]
    label = np.asarray(nib.load(source / f"{case}_seg.nii.gz").dataobj)
    label = np.array([0, 2, 1, 0, 3], np.uint8)[label]
    for folder, voxels in {"imagesTr": np.stack([scan.dataobj for scan in scans], -1), "labelsTr": label}.items():
        (data / folder).mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels, scans[0].affine), data / folder / f"{case}.nii.gz")
    run = evaluated(tmp_path / "run", cohort_source, {case: 0.5})
    overview(str(cohort_source / "data"), f"a={run}", str(tmp_path / "brats.png"))
    brats = plt.imread(tmp_path / "brats.png")
    (tmp_path / "run" / "inference.json").write_text('{"cases": [], "label_values": [0, 1, 2, 4]}')  # others
    overview(str(data), f"a={run}", str(tmp_path / "inferred.png"))
    assert np.array_equal(brats, plt.imread(tmp_path / "inferred.png"))
    (tmp_path / "run" / "inference.json").unlink()
    shutil.copy(data / "labelsTr" / f"{case}.nii.gz", tmp_path / "run" / f"{case}_seg.nii.gz")
    overview(str(data), f"a={run}", str(tmp_path / "msd.png"))
    assert np.array_equal(brats, plt.imread(tmp_path / "msd.png"))
    (tmp_path / "run" / "inference.json").write_text('{"cases": [], "label_values": [0, 2, 1, 3]}')  # others
    overview(str(cohort_source / "data"), f"a={run}", str(tmp_path / "other.png"))
    assert np.array_equal(brats, plt.imread(tmp_path / "other.png"))
