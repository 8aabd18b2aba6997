import csv
import json
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
from scripts.report.run_folder import open_run
from scripts.report.run_tables import pick_by_dice


def evaluated(folder, cohort, dice, folds=()):
    """An evaluation's output, or with folds a cross-validation's: copies of the truth, given whole-tumour Dice."""
    folder.mkdir()
    cases = []
    for number, case in enumerate(dice):
        source = cohort / "data" / case
        home = folder / f"fold_{folds[number]}" if folds else folder
        home.mkdir(exist_ok=True)
        shutil.copy(source / f"{case}_seg.nii.gz", home)
        paths = {"image": source / f"{case}_t1ce.nii.gz", "label": source / f"{case}_seg.nii.gz"}
        paths["prediction"] = home / f"{case}_seg.nii.gz"
        cases.append({"case": case} | {key: str(path) for key, path in paths.items()})
    (folder / "evaluation.json").write_text(json.dumps({"cases": cases, "label_values": [0, 1, 2, 4]}))
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "region", *COLUMNS])
        for case, value in dice.items():
            rest = [""] * (len(COLUMNS) - 1)
            writer.writerows([case, name, v, *rest] for name, v in (("TC", 0.5), ("WT", value), ("ET", 0.25)))
    return str(folder)


@pytest.fixture
def runs(cohort_source, tmp_path):
    """Two runs of three patients, the third of whom is the median."""
    dice = {"phantom_0000": 0.3, "phantom_0001": 0.9, "phantom_0002": 0.6}
    return ",".join(f"{name}={evaluated(tmp_path / name, cohort_source, dice)}" for name in ("a", "b"))


def test_the_command_prints_mean_dice_and_names_the_median_case(runs, tmp_path, command):
    picture = tmp_path / "new" / "picture.png"
    printed = command("scripts", "overview", "--runs", runs, "--picture", picture).stdout
    assert "mean of 3 patients (how empty regions count is not known" in printed  # there is no metrics.json
    rows = [line.split() for line in printed.splitlines() if line.startswith("a ")]
    assert rows == [["a", "0.600", "0.500", "0.250", "0.450"]]
    assert f"phantom_0002 is drawn in {picture}" in printed and picture.is_file()


def test_truth_and_predictions_are_drawn_on_the_slice_with_most_tumour(runs, cohort_source, tmp_path, monkeypatch):
    drawn, titles = [], []
    monkeypatch.setattr(Axes, "imshow", lambda axis, pixels: drawn.append(pixels))
    monkeypatch.setattr(Axes, "set_title", lambda axis, title, **_: titles.append(title))
    empty = nib.Nifti1Image(np.zeros((32, 32, 32), np.uint8), np.eye(4))
    nib.save(empty, tmp_path / "b" / "phantom_0002_seg.nii.gz")
    overview(runs, str(tmp_path / "p.png"))
    scan, truth, same, nothing = drawn
    assert titles == ["Input", "ground truth", "a: WT Dice 0.60", "b: WT Dice 0.60"]  # the input may be FLAIR
    assert np.array_equal(truth, same) and np.array_equal(scan, nothing)
    files = [cohort_source / "data" / "phantom_0002" / f"phantom_0002_{role}.nii.gz" for role in ("seg", "t1ce")]
    tumour, brain = (np.asarray(nib.as_closest_canonical(nib.load(file)).dataobj) > 0 for file in files)
    sides = [np.flatnonzero(brain.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    tumour = tumour[tuple(slice(side[0], side[-1] + 1) for side in sides)]  # the picture shows the brain alone
    index = tumour.sum((0, 1)).argmax()
    left_on_the_right = np.rot90(tumour[::-1, :, index])
    scan, truth = (np.asarray(pixels).astype(int) for pixels in (scan, truth))
    places = [
        np.round((np.arange(n) + 0.5) * m / n - 0.5).astype(int) for n, m in zip(left_on_the_right.shape, scan.shape)
    ]
    coloured = (abs(truth - scan).max(-1) > 25)[np.ix_(*places)]  # the middle of each voxel, with a little of the next
    assert np.array_equal(coloured, left_on_the_right) and (tumour != tumour[::-1]).any()
    assert len(np.unique(truth[np.ix_(*places)][coloured], axis=0)) >= len(CLASS_COLOURS)


def test_thick_slices_keep_their_shape_and_a_predicted_tumour_is_shown_without_a_true_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "imshow", lambda axis, pixels: drawn.append(np.asarray(pixels).astype(int)))
    brain, found = np.full((20, 10, 12), 9, np.uint8), np.zeros((20, 10, 12), np.uint8)
    found[4:8, 4:8, 7] = 2
    monkeypatch.chdir(tmp_path)
    for name, voxels in {"t1ce": brain, "seg": found, "truth": 0 * found}.items():
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 4.0, 1.0, 1.0])), f"a_{name}.nii.gz")
    case = {"case": "a", "image": "a_t1ce.nii.gz", "prediction": "a_seg.nii.gz", "label": "a_truth.nii.gz"}
    (tmp_path / "evaluation.json").write_text(json.dumps({"cases": [case], "label_values": [0, 1, 2, 4]}))
    rows = "".join(f"a,{name}{',0.5' * len(COLUMNS)}\n" for name in ("WT", "TC", "ET"))
    (tmp_path / "metrics.csv").write_text(f"case,region,{','.join(COLUMNS)}\n{rows}")
    overview("a=.", "p.png")
    scan, truth, predicted = drawn
    assert scan.shape[0] == 2 * scan.shape[1]  # 40 mm by 20 mm
    assert (truth == scan).all() and (predicted != scan).any()


def test_a_cross_validation_is_drawn_from_its_folds_and_regions_without_dice_do_not_count(cohort_source, tmp_path):
    dice = {"phantom_0000": 0.3, "phantom_0001": "", "phantom_0002": 0.6}
    run = evaluated(tmp_path / "cv", cohort_source, dice, folds=[0, 1, 0])
    overview(f"a={run}", str(tmp_path / "p.png"), case="phantom_0001")
    overview(f"a={run}", str(tmp_path / "median.png"))
    overview(f"a={run}", str(tmp_path / "named.png"), case="phantom_0000")
    assert np.array_equal(plt.imread(tmp_path / "median.png"), plt.imread(tmp_path / "named.png"))


def test_the_median_of_an_even_number_is_that_of_the_report(cohort_source, tmp_path, capsys):
    dice = {"phantom_0000": 0.3, "phantom_0001": 0.9, "phantom_0002": 0.6, "phantom_0003": 0.7}
    run = evaluated(tmp_path / "run", cohort_source, dice)
    overview(f"a={run}", str(tmp_path / "p.png"))
    (picked,) = (case for title, case in pick_by_dice(open_run(run)).items() if title.startswith("Median"))
    assert f"{picked} is drawn in" in capsys.readouterr().out


def test_runs_that_do_not_fit_together_are_named(cohort_source, tmp_path):
    a, b = (f"{name}={evaluated(tmp_path / name, cohort_source, {f'phantom_000{name}': 0.5})}" for name in "12")
    picture = str(tmp_path / "p.png")
    with pytest.raises(UserError, match="'1', '2'"):
        overview(f"{a},{b}", picture)
    with pytest.raises(UserError, match="case is 'x'.*phantom_0001"):
        overview(a, picture, case="x")
    (tmp_path / "2" / "metrics.csv").unlink()
    with pytest.raises(UserError, match="/2 has no scores of its patients: score it first"):
        overview(b, picture)
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        overview(f"none={tmp_path / 'none'}", picture)
    with pytest.raises(UserError, match="runs is "):
        overview(str(tmp_path), picture)


def test_label_maps_of_other_values_give_the_same_picture(cohort_source, tmp_path):
    case = "phantom_0001"
    run = evaluated(tmp_path / "run", cohort_source, {case: 0.5})
    overview(f"a={run}", str(tmp_path / "brats.png"))
    path, record = tmp_path / "run" / f"{case}_seg.nii.gz", tmp_path / "run" / "evaluation.json"
    image = nib.load(path)
    msd = np.array([0, 2, 1, 0, 3], np.uint8)[np.asarray(image.dataobj)]
    for target in (path, tmp_path / "truth.nii.gz"):
        nib.save(nib.Nifti1Image(msd, image.affine), target)
    document = json.loads(record.read_text()) | {"label_values": [0, 2, 1, 3]}
    document["cases"][0]["label"] = str(tmp_path / "truth.nii.gz")
    record.write_text(json.dumps(document))
    overview(f"a={run}", str(tmp_path / "msd.png"))
    assert np.array_equal(plt.imread(tmp_path / "brats.png"), plt.imread(tmp_path / "msd.png"))


@pytest.mark.parametrize("role", ["prediction", "label"])
def test_label_maps_of_values_without_a_meaning_are_named(role, cohort_source, tmp_path):
    case = "phantom_0001"
    run = evaluated(tmp_path / "run", cohort_source, {case: 0.5})
    image = nib.load(cohort_source / "data" / case / f"{case}_seg.nii.gz")
    path = tmp_path / "run" / f"{case}_seg.nii.gz" if role == "prediction" else tmp_path / "truth.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.uint8(7), image.affine), path)
    record = tmp_path / "run" / "evaluation.json"
    document = json.loads(record.read_text())
    document["cases"][0] |= {"label": str(path)} if role == "label" else {}
    record.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"{path}: unknown label values \[7, 8, 9, 11\]; .* know \[0, 1, 2, 3, 4\]"):
        overview(f"a={run}", str(tmp_path / "p.png"))
    assert not (tmp_path / "p.png").exists()


def test_a_damaged_label_map_is_named(cohort_source, tmp_path):
    case = "phantom_0001"
    run = evaluated(tmp_path / "run", cohort_source, {case: 0.5})
    path = tmp_path / "run" / f"{case}_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(UserError, match=rf"{path} is unreadable or truncated \(BadGzipFile\): copy"):
        overview(f"a={run}", str(tmp_path / "p.png"))
