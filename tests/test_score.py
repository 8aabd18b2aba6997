import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from conftest import real_data
from scripts.errors import UserError
from scripts.evaluation import score as scoring
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.score import score
from scripts.labels import NO_OVERLAP_MM, REGIONS


def save(folder, name, label, affine=None):
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / name)


def read(path):
    with open(path, newline="") as file:
        return {(row["case"], row["region"]): row for row in csv.DictReader(file)}


@pytest.fixture
def truth():
    label = np.zeros((20, 18, 16), np.uint8)
    label[4:14, 4:12, 4:12] = 2
    label[6:11, 6:10, 6:10] = 1
    label[6:9, 6:9, 6:9] = 4
    return label


@pytest.fixture
def folders(tmp_path, truth):
    """Two patients: truth in BraTS folders with ET 4, predictions in plain files with ET 3."""
    for case in ("A_001", "B_002"):
        save(tmp_path / "truth" / case, f"{case}_seg.nii.gz", truth)
        save(tmp_path / "truth" / case, f"{case}_t1ce.nii.gz", truth)
        predicted = np.roll(np.where(truth == 4, 3, truth), 1, axis=0)
        save(tmp_path / "pred", f"{case}.nii.gz", predicted)
    return tmp_path


def test_a_row_for_each_case_and_region_with_the_promised_columns(folders, command, truth):
    options = ["--pred", folders / "pred", "--truth", folders / "truth", "--output", folders / "metrics.csv"]
    result = command("scripts", "score", *options)
    assert result.returncode == 0, result.stderr
    lines = (folders / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "case,region,dice,hd95,nsd,sensitivity,precision,volume_error_ml,lesion_dice,lesion_hd95,slice_mean_dice"
    )
    rows = read(folders / "metrics.csv")
    assert list(rows) == [(case, region) for case in ("A_001", "B_002") for region in ("WT", "TC", "ET")]
    for region, classes in REGIONS:
        values = [4 if c == 3 else c for c in classes]
        masks = [np.isin(volume, values) for volume in (np.roll(truth, 1, axis=0), truth)]
        expected = DiceMetric()(*(torch.from_numpy(mask)[None, None].float() for mask in masks)).item()
        assert float(rows["A_001", region]["dice"]) == pytest.approx(expected, abs=1e-6)
        assert float(rows["A_001", region]["hd95"]) == pytest.approx(2)
    assert "2 patients" in result.stdout and "373.13 mm" in result.stdout and "WT 0, TC 0, ET 0" in result.stdout


def test_the_summary_is_written_beside_the_table(folders):
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "out" / "m.csv"))
    summary = json.loads((folders / "out" / "m.json").read_text())
    rows = read(folders / "out" / "m.csv")
    mean = np.mean([float(rows[case, "WT"]["dice"]) for case in ("A_001", "B_002")])
    assert summary["summary"]["WT"]["dice"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert summary["empty_rule"] == "brats" and summary["cases"] == 2


def test_another_orientation_of_the_same_grid_scores_the_same(folders, truth):
    label = np.roll(np.where(truth == 4, 3, truth), 1, axis=0)
    turned = nib.as_closest_canonical(nib.Nifti1Image(label, np.diag([-2.0, -2.0, 2.0, 1.0])))
    nib.save(turned, folders / "pred" / "A_001.nii.gz")
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    rows = read(folders / "m.csv")
    for region in ("WT", "TC", "ET"):
        assert [rows["A_001", region][name] for name in COLUMNS] == [rows["B_002", region][name] for name in COLUMNS]


def test_an_all_background_prediction_counts_as_an_empty_region(folders, truth, capsys):
    save(folders / "pred", "A_001.nii.gz", np.zeros_like(truth))
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    rows = read(folders / "m.csv")
    for region in ("WT", "TC", "ET"):
        assert float(rows["A_001", region]["dice"]) == 0
        assert float(rows["A_001", region]["hd95"]) == NO_OVERLAP_MM
    assert "WT 1, TC 1, ET 1" in capsys.readouterr().out
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), empty_rule="exclude")
    assert read(folders / "m.csv")["A_001", "WT"]["dice"] == ""
    assert json.loads((folders / "m.json").read_text())["summary"]["WT"]["dice"]["patients"] == 1


def test_a_threshold_on_enhancing_tumour_gives_results_both_ways(folders, truth):
    voxels = int((truth == 4).sum())
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), et_threshold_ml=voxels * 0.008 + 0.01)
    plain, cleared = read(folders / "m.csv"), read(folders / "m_et_cleared.csv")
    assert float(plain["A_001", "ET"]["dice"]) > 0 and float(cleared["A_001", "ET"]["dice"]) == 0
    assert plain["A_001", "TC"] == cleared["A_001", "TC"]
    assert json.loads((folders / "m_et_cleared.json").read_text())["et_threshold_ml"] > 0
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    assert not (folders / "m_et_cleared.csv").exists()  # it would be taken for this scoring's
    (folders / "m_et_cleared.json").write_text("{}")  # of another program
    with pytest.raises(UserError, match="m_et_cleared"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    assert (folders / "m_et_cleared.json").read_text() == "{}"


def test_where_there_is_the_plain_table_there_is_the_cleared_one(folders, monkeypatch):
    """cross_validate takes the plain table for a fold that is done."""

    def killed(path, *_, **__):
        raise KeyboardInterrupt(path.name)

    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    monkeypatch.setattr(scoring, "write_scores", killed)
    with pytest.raises(KeyboardInterrupt, match="^m_et_cleared.csv$"):  # it is written first
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), et_threshold_ml=1.0)
    assert not (folders / "m.csv").exists()  # the earlier table


@pytest.mark.parametrize("name", ["metrics.csv", "metrics.json", "metrics_et_cleared.csv", "metrics_et_cleared.json"])
def test_scores_replace_no_file_of_another_program(folders, name):
    (folders / name).write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match=f"output .*would replace .*{name}, but this command did not write it"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "metrics.csv"))
    assert (folders / name).read_text() == "epoch,loss\n1,0.5\n"


@pytest.mark.parametrize("lost", ["metrics.csv", "metrics.json"])
def test_scores_of_which_a_part_is_missing_are_written_again(folders, lost):
    arguments = [str(folders / "pred"), str(folders / "truth"), str(folders / "metrics.csv")]
    score(*arguments)
    (folders / lost).unlink()
    score(*arguments)
    assert (folders / lost).is_file()


def test_other_label_values(folders, truth):
    msd = np.array([0, 2, 1, 0, 3], np.uint8)[truth]
    save(folders / "msd", "A_001_seg.nii.gz", msd)
    score(str(folders / "msd"), str(folders / "msd"), str(folders / "m.csv"), label_values=[0, 2, 1, 3])
    rows = read(folders / "m.csv")
    assert float(rows["A_001", "TC"]["dice"]) == 1
    score(str(folders / "truth"), str(folders / "truth"), str(folders / "t.csv"))
    assert rows["A_001", "TC"]["volume_error_ml"] == read(folders / "t.csv")["A_001", "TC"]["volume_error_ml"]


def spoil_shape(folders, truth):
    save(folders / "pred", "A_001.nii.gz", truth[:-1])


def spoil_affine(folders, truth):
    save(folders / "pred", "A_001.nii.gz", truth, np.diag([-1.0, -2.0, 2.0, 1.0]))


def spoil_values(folders, truth):
    save(folders / "pred", "A_001.nii.gz", truth + 3)


def spoil_both_values(folders, truth):
    save(folders / "pred", "A_001.nii.gz", np.where(truth == 1, 3, truth))


def spoil_file(folders, truth):
    (folders / "pred" / "A_001.nii.gz").write_bytes(b"nothing")


def spoil_name(folders, truth):
    save(folders / "pred", "C_003.nii.gz", truth)


def spoil_header(change):
    def spoil(folders, truth):
        image = nib.Nifti1Image(truth, np.diag([-2.0, -2.0, 2.0, 1.0]))
        image.set_sform(image.affine, 1)
        image.set_qform(image.affine, 1)
        change(image)
        nib.save(image, folders / "pred" / "A_001.nii.gz")

    return spoil


def spoil_checksum(folders, truth):
    path = folders / "pred" / "A_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))


MIRRORED = np.diag([2.0, -2.0, 2.0, 1.0])
FAULTS = {  # what the message names
    "shape": (spoil_shape, ["A_001.nii.gz", "(19, 18, 16)", "(20, 18, 16)"]),
    "affine": (spoil_affine, ["A_001.nii.gz", "affine"]),
    "values": (spoil_values, ["A_001.nii.gz", "[5, 7]"]),
    "3 and 4": (spoil_both_values, ["A_001.nii.gz", "3 and 4"]),
    "unreadable": (spoil_file, ["A_001.nii.gz", "unreadable"]),
    "damaged": (spoil_checksum, ["A_001.nii.gz", "truncated"]),
    "metre": (spoil_header(lambda image: image.header.set_xyzt_units("meter")), ["A_001.nii.gz", "unit is metre"]),
    "micron": (spoil_header(lambda image: image.header.set_xyzt_units("micron")), ["A_001.nii.gz", "micrometre"]),
    "mirrored": (spoil_header(lambda image: image.set_qform(MIRRORED, 1)), ["A_001.nii.gz", "mirror"]),
    "pixdim": (spoil_header(lambda image: image.header["pixdim"].put(3, 5)), ["A_001.nii.gz", "2 x 2 x 5 mm"]),
    "no truth": (spoil_name, ["C_003"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_named_and_nothing_is_written(fault, folders, truth):
    spoil, named = FAULTS[fault]
    spoil(folders, truth)
    with pytest.raises(UserError) as error:
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    assert all(text in str(error.value) for text in named) and "B_002" not in str(error.value)
    assert not (folders / "m.csv").exists()


EDITIONS = {  # values on disk of background, NCR, ED, ET
    "brats2018": [0, 1, 2, 4], "brats2023": [0, 1, 2, 3], "brats2024": [0, 1, 2, 3], "msd": [0, 2, 1, 3],
    "nnunet": [0, 2, 1, 3],
}  # fmt: skip


@pytest.mark.parametrize("edition", EDITIONS)
def test_each_side_has_values_of_its_own(edition, folders, truth):
    classes = np.array([0, 1, 2, 0, 3])[truth]
    save(folders / "other", "A_001.nii.gz", np.array(EDITIONS[edition])[classes])
    options = {"pred_values": edition, "truth_values": "brats2018"}
    score(str(folders / "other"), str(folders / "truth"), str(folders / "m.csv"), **options)
    assert all(float(read(folders / "m.csv")["A_001", region]["dice"]) == 1 for region in ("WT", "TC", "ET"))


def test_a_resection_cavity_is_no_tumour(folders, truth):
    cavity = np.where(truth == 4, 3, truth)
    cavity[15:18] = 4
    name = "BraTS-GLI-00005-100"
    save(folders / "t24" / name, f"{name}-seg.nii.gz", cavity)
    save(folders / "p24", f"{name}.nii.gz", np.where(cavity == 4, 0, cavity))
    arguments = [str(folders / "p24"), str(folders / "t24"), str(folders / "m.csv")]
    score(*arguments, truth_values="brats2024")
    assert all(float(read(folders / "m.csv")[name, region]["dice"]) == 1 for region in ("WT", "TC", "ET"))
    (folders / "m.csv").unlink()
    for label in (cavity, np.where(cavity == 3, 0, cavity)):  # also where no enhancing tumour is left
        save(folders / "t24" / name, f"{name}-seg.nii.gz", label)
        with pytest.raises(UserError, match=rf"(?s){name}-seg.*4.*--truth_values"):
            score(*arguments)
        assert not (folders / "m.csv").exists()


def test_two_editions_on_one_side_are_an_error_that_asks_for_the_name(folders, truth):
    save(folders / "truth" / "B_002", "B_002_seg.nii.gz", np.where(truth == 4, 3, truth))
    with pytest.raises(UserError, match=r"B_002_seg.*3.*A_001_seg.*4.*--truth_values .*brats2024"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    assert not (folders / "m.csv").exists()


def test_a_value_of_no_meaning_names_file_value_and_option(folders, truth):
    with pytest.raises(UserError, match=r"(?s)A_001_seg.*\[4\].*--truth_values .*brats2018"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), truth_values="brats2023")
    assert not (folders / "m.csv").exists()


def test_values_and_sizes_that_are_rounded_are_scored_as_whole_ones(folders, truth):
    options = {"pred": str(folders / "pred"), "truth": str(folders / "truth")}
    for name, size, rounding in (("m", 1.0, 0.0), ("n", 1.0000001192, 1e-7)):
        for case in ("A_001", "B_002"):
            label = np.roll(np.where(truth == 4, 3, truth), 1, axis=0)
            affine = np.diag([-size, -size, size, 1.0])
            for path, voxels in ((f"pred/{case}.nii.gz", label), (f"truth/{case}/{case}_seg.nii.gz", truth)):
                nib.save(nib.Nifti1Image((voxels * (1 - rounding)).astype(np.float32), affine), folders / path)
        score(**options, output=str(folders / f"{name}.csv"))
    exact, near = read(folders / "m.csv"), read(folders / "n.csv")
    for key, row in exact.items():
        assert all(abs(float(row[name]) - float(near[key][name])) <= 1e-4 for name in COLUMNS)


WRONG = [
    {"pred_values": "brats2022"}, {"truth_values": [0, 1, 1, 2]}, {"label_values": "0124"},
    {"pred": "no"}, {"empty_rule": "skip"}, {"output": "."}, {"label_values": [0, 1]},
]  # fmt: skip


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_named(option, folders):
    options = {"pred": str(folders / "pred"), "truth": str(folders / "truth"), "output": str(folders / "m.csv")}
    with pytest.raises(UserError, match=f"^{next(iter(option))} "):
        score(**{**options, **option})
    assert not (folders / "m.csv").exists()


@pytest.mark.slow
def test_an_all_background_prediction_of_real_patients_shows_what_slice_means_are_worth(tmp_path):
    root = real_data("brats_1mm")
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        source = nib.load(next(folder.glob("*_seg.nii.gz")))
        save(tmp_path / "pred", f"{folder.name}_seg.nii.gz", np.zeros(source.shape), source.affine)
    score(str(tmp_path / "pred"), str(root), str(tmp_path / "m.csv"))
    rows = read(tmp_path / "m.csv")
    assert len(rows) == 9
    assert all(float(row["dice"]) == 0 for row in rows.values())
    assert all(0.5 < float(row["slice_mean_dice"]) < 1 for row in rows.values())


def warnings_of(folder, change, caplog, **options):
    for path in (folder / "pred").iterdir():
        image = nib.load(path)
        save(folder / "pred", path.name, change(np.asarray(image.dataobj)), image.affine)
    caplog.clear()
    score(str(folder / "pred"), str(folder / "truth"), str(folder / "m.csv"), **options)
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_masks_and_swapped_values_are_warned_of(folders, caplog):
    assert warnings_of(folders, lambda label: label, caplog) == []
    (swapped,) = warnings_of(folders, lambda label: np.choose(label, [0, 2, 1, 3]), caplog)
    assert "NCR or ED" in swapped and "--pred_values" in swapped
    assert warnings_of(folders, lambda label: label, caplog, pred_values="nnunet", truth_values="brats2018") == []
    (mask,) = warnings_of(folders, lambda label: (label > 0).astype(np.uint8), caplog)
    assert "predictions" in mask and "ED or ET" in mask and "NCR" not in mask


def test_a_threshold_that_equals_the_volume_up_to_rounding_clears_nothing(folders, truth):
    size = 1.0000001192
    for folder in ("pred", "truth"):
        for path in (folders / folder).rglob("*.nii.gz"):
            save(path.parent, path.name, np.asarray(nib.load(path).dataobj), np.diag([size, size, size, 1]))
    millilitres = int((truth == 4).sum()) / 1000
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), et_threshold_ml=millilitres)
    assert read(folders / "m.csv") == read(folders / "m_et_cleared.csv")


@pytest.mark.parametrize("side", ["pred", "truth"])
def test_two_files_that_may_be_the_label_map_of_a_case_are_both_named(tmp_path, truth, side):
    for folder in ("pred", "truth"):
        save(tmp_path / folder, "A_seg.nii.gz", truth)
    save(tmp_path / side, "A.nii.gz", np.where(truth == 4, 1, truth))
    with pytest.raises(UserError, match=rf"{side}: .*A\.nii\.gz and .*A_seg\.nii\.gz "):
        score(str(tmp_path / "pred"), str(tmp_path / "truth"), str(tmp_path / "m.csv"))
    assert not (tmp_path / "m.csv").exists()


def test_files_that_score_leaves_out_are_named(tmp_path, truth, caplog):
    for folder in ("pred", "truth"):
        save(tmp_path / folder, "A_seg.nii.gz", truth)
    save(tmp_path / "truth", "A_seg_rater2.nii.gz", truth)
    save(tmp_path / "pred", "A_mask.nii.gz", truth)
    score(str(tmp_path / "pred"), str(tmp_path / "truth"), str(tmp_path / "m.csv"))
    assert "A_seg_rater2.nii.gz" in caplog.text and "A_mask.nii.gz" in caplog.text


def test_label_values_that_are_given_and_do_not_fit_are_said_to_be_given(folders, truth):
    with pytest.raises(UserError, match=r"unknown label values \[3\]") as error:
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), label_values="brats2018")
    assert "by the label values given" in str(error.value)


def test_a_truth_in_metres_is_named_before_any_distance_is_measured(folders, truth):
    """Without a unit in the header: a dilation by 3 mm would be one by 1500 voxels."""
    for folder in ("pred", "truth"):
        for path in (folders / folder).rglob("*.nii.gz"):
            save(path.parent, path.name, np.asarray(nib.load(path).dataobj), np.diag([-0.002, -0.002, 0.002, 1.0]))
    with pytest.raises(UserError, match=r"A_001_seg\.nii\.gz +extent 0\.04 x 0\.036 x 0\.032 mm, expected 1 to 400 mm"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))


def test_a_truth_of_children_has_another_meaning_unless_it_is_given(folders, truth):
    name = "BraTS-PED-00001-000"
    save(folders / "t", f"{name}-seg.nii.gz", np.array([0, 2, 3, 0, 1])[truth])  # 1 ET, 2 NET, 3 CC, and no 4
    save(folders / "p", f"{name}.nii.gz", truth)
    arguments = [str(folders / "p"), str(folders / "t"), str(folders / "m.csv")]
    with pytest.raises(UserError, match=rf"{name}-seg\S+ +is of BraTS-PED, .* not known here +pass --truth_values"):
        score(*arguments)
    score(*arguments, truth_values=[0, 2, 3, 1])
    assert all(float(read(folders / "m.csv")[name, region]["dice"]) == 1 for region in ("WT", "TC", "ET"))


def test_predictions_that_are_the_truth_are_warned_of(folders, caplog):
    (folders / "link").symlink_to(folders / "truth")
    score(str(folders / "link"), str(folders / "truth"), str(folders / "m.csv"))
    assert "is --pred the truth itself" in caplog.text


LABELS = [  # of a dataset.json
    {"background": 0, "edema": 1, "necrotic": 2, "enhancing": 3},
    {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": [3]},
    {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},  # as in MSD
]


@pytest.mark.parametrize("labels", LABELS)
def test_a_dataset_json_beside_or_above_label_maps_says_what_their_values_mean(labels, folders, truth, caplog):
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    nnunet = np.array([0, 2, 1, 3, 3], np.uint8)
    for case in ("A_001", "B_002"):
        save(folders / "task" / "labelsTr", f"{case}.nii.gz", nnunet[truth])
        save(folders / "preds", f"{case}.nii.gz", nnunet[np.roll(truth, 1, axis=0)])
    for folder in ("task", "preds"):
        (folders / folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    options = [str(folders / "preds"), str(folders / "task" / "labelsTr"), str(folders / "n.csv")]
    caplog.set_level("INFO")
    score(*options)
    assert read(folders / "n.csv") == read(folders / "m.csv")
    assert f"{folders / 'task' / 'dataset.json'} says what" in caplog.text and "2 is NCR, 1 is ED" in caplog.text
    first, second = (json.loads((folders / f"{name}.json").read_text()) for name in "mn")
    assert second["truth_values"] == [0, 2, 1, 3]
    for key in ("truth_checksum", "prediction_checksum"):  # of classes, however they are stored
        assert first[key] == second[key] and len(first[key]) == 2
    assert first["truth_checksum"] != first["prediction_checksum"]
    caplog.clear()
    score(*options, label_values="brats2023")
    assert "says what" not in caplog.text and read(folders / "n.csv") != read(folders / "m.csv")


def test_a_dataset_json_that_cannot_be_understood_asks_for_the_values(folders):
    (folders / "truth" / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1}}')
    options = [str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv")]
    with pytest.raises(UserError, match=r"truth/dataset\.json: labels is .*pass --truth_values \(brats2018"):
        score(*options)
    score(*options, truth_values="brats2018")


def test_a_record_of_another_program_does_not_keep_from_scoring(folders, caplog):
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "without.csv"))
    (folders / "pred" / "evaluation.json").write_text('{"cases": 3}')
    with caplog.at_level("INFO"):
        score(str(folders / "pred"), str(folders / "truth"), str(folders / "pred" / "metrics.csv"))
    assert (folders / "pred" / "metrics.csv").read_text() == (folders / "without.csv").read_text()
    assert any("evaluation.json" in record.message and "not used" in record.message for record in caplog.records)


@pytest.mark.parametrize("values", [[0, 1, 2, 4], [0, 2, 1, 3]])
def test_the_record_of_a_run_says_what_its_label_maps_mean(values, folders, truth):
    """A run in the folder of a data set whose dataset.json is of the data set's own labels."""
    (folders / "dataset.json").write_text(json.dumps({"labels": LABELS[0]}))
    (folders / "pred" / "inference.json").write_text(json.dumps({"cases": [], "label_values": values}))
    classes = np.array([0, 1, 2, 0, 3])[truth]
    save(folders / "pred", "A_001.nii.gz", np.array(values)[classes])
    (folders / "pred" / "B_002.nii.gz").unlink()
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"), truth_values="brats2018")
    assert all(float(read(folders / "m.csv")["A_001", region]["dice"]) == 1 for region in ("WT", "TC", "ET"))


@pytest.mark.parametrize("now, then, warned", [("A_001", "B_002", True), ("A_001", "C_3", False), ("", "A_001", False)])
def test_label_maps_of_several_settings_are_named_where_both_are_scored(now, then, warned, folders, caplog):
    if not now:
        (folders / "pred" / "B_002.nii.gz").unlink()
    group = {"cases": [{"case": then, "patient": "p"}]}
    record = {"cases": [{"case": now}] if now else [], "earlier": [group, {"settings": {}}]}
    (folders / "pred" / "inference.json").write_text(json.dumps(record))
    score(str(folders / "pred"), str(folders / "truth"), str(folders / "m.csv"))
    said = "inference.json says that 1 of 2 label maps were made by other weights or settings (B_002), so the means mix"
    assert (said in caplog.text) == ("mix networks" in caplog.text) == warned
