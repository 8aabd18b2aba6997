"""The table, the picture and the curves of evaluated runs."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from scripts.curves import draw_curves, mean_history, side_by_side
from scripts.errors import UserError
from scripts.metrics import COLUMNS
from scripts.overview import overview


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


def test_the_table_has_the_means_and_the_picture_the_median_case(cohort_source, tmp_path, command):
    dice = {"phantom_0000": 0.3, "phantom_0001": 0.9, "phantom_0002": 0.6}
    runs = ",".join(f"{name}={evaluated(tmp_path / name, cohort_source, dice)}" for name in ("a", "b"))
    picture = tmp_path / "new" / "picture.png"
    result = command(
        "scripts.overview", "--dataset_dir", cohort_source / "data", "--runs", runs, "--picture", picture
    )  # fmt: skip
    printed = result.stdout
    assert "mean of 3 cases" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("a ")]
    assert rows == [["a", "0.600", "0.500", "0.250", "0.450"]]
    assert "phantom_0002 is drawn" in printed
    pixels = plt.imread(picture)
    assert pixels.shape[1] > 4 * 300
    assert pixels[..., :3].std() > 0.1


def test_runs_that_were_not_evaluated_together_are_refused(cohort_source, tmp_path):
    runs = [f"{name}={evaluated(tmp_path / name, cohort_source, {f'phantom_000{name}': 0.5})}" for name in "12"]
    data, picture = str(cohort_source / "data"), str(tmp_path / "p.png")
    with pytest.raises(UserError, match="no case in common"):
        overview(data, ",".join(runs), picture)
    with pytest.raises(UserError, match="case is 'x', expected one of"):
        overview(data, runs[0], picture, case="x")
    with pytest.raises(UserError, match="holds no case phantom_0001, which the runs have"):
        overview(str(cohort_source / "data" / "phantom_0003"), runs[0], picture)
    with pytest.raises(UserError, match="evaluate the run first"):
        overview(data, f"none={tmp_path / 'none'}", picture)
    with pytest.raises(UserError, match="expected NAME=DIR"):
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
    (tmp_path / "run" / "inference.json").write_text('{"label_values": [0, 1, 2, 4]}')  # not those of the data
    overview(str(data), f"a={run}", str(tmp_path / "inferred.png"))
    assert np.array_equal(brats, plt.imread(tmp_path / "inferred.png"))
    (tmp_path / "run" / "inference.json").unlink()
    shutil.copy(data / "labelsTr" / f"{case}.nii.gz", tmp_path / "run" / f"{case}_seg.nii.gz")
    overview(str(data), f"a={run}", str(tmp_path / "msd.png"))
    assert np.array_equal(brats, plt.imread(tmp_path / "msd.png"))


def test_curves_are_drawn_of_what_the_history_holds(tmp_path):
    rows = ["epoch,weight/flair,dice/flair,validation/dice/WT", "1,0.1,0.2,", "2,0.05,0.4,0.3"]
    (tmp_path / "history.csv").write_text("\n".join(rows))
    draw_curves(str(tmp_path / "all.png"), str(tmp_path))
    (tmp_path / "history.csv").write_text("epoch,validation/dice/WT\n1,0.5")
    draw_curves(str(tmp_path / "one.png"), str(tmp_path))
    widths = [plt.imread(tmp_path / name).shape[1] for name in ("all.png", "one.png")]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)
    assert np.ptp(plt.imread(tmp_path / "one.png")[..., :3]) > 0.5
    (tmp_path / "history.csv").write_text("epoch,loss/total\n1,0.5")
    with pytest.raises(UserError, match="holds nothing to draw yet"):
        draw_curves(str(tmp_path / "p.png"), str(tmp_path))
    with pytest.raises(UserError, match=r"history\.csv does not exist or is empty"):
        draw_curves(str(tmp_path / "p.png"), str(tmp_path / "none"))


def test_runs_side_by_side_are_means_over_the_folders_that_match(tmp_path):
    for name, loss, dice in [("alone_0", 0.4, 0.5), ("alone_1", 0.2, 0.7), ("distilled", 0.1, 0.9)]:
        (tmp_path / name).mkdir()
        rows = ["epoch,loss/student,validation/dice/WT", f"1,{loss},", f"2,{loss / 2},{dice}"]
        (tmp_path / name / "history.csv").write_text("\n".join(rows))
    alone, distilled = (mean_history(str(tmp_path / name)) for name in ("alone_*", "distilled"))
    rows = side_by_side({"alone": alone, "distilled": distilled})
    assert [float(row["loss/student/alone"]) for row in rows] == pytest.approx([0.3, 0.15])
    assert [row["validation/dice/WT/alone"] for row in rows] == ["", "0.6"]
    assert [float(row["loss/student/distilled"]) for row in rows] == [0.1, 0.05]
    picture = tmp_path / "new" / "p.png"
    draw_curves(str(picture), runs=f"alone={tmp_path}/alone_*,distilled={tmp_path}/distilled")
    assert plt.imread(picture).shape[1] > 800  # two panels: no run has Dice of TC or ET
    (tmp_path / "alone_1" / "history.csv").write_text("epoch,loss/student\n1,0.5")
    with pytest.raises(UserError, match=r"have \[1, 2\] epochs"):
        draw_curves(str(picture), runs=f"alone={tmp_path}/alone_*")
    with pytest.raises(UserError, match="give either --run DIR"):
        draw_curves(str(picture))
