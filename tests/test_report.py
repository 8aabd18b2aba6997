import base64
import csv
import errno
import gzip
import io
import itertools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from PIL import Image

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.evaluation.score import score
from scripts.files import sha256, write_text
from scripts.labels import CLASS_COLOURS, ERROR_COLOURS
from scripts.locking import FolderLock
from scripts.report import draft
from scripts.report.layers import LabelMap, read_patient
from scripts.report.report import report
from scripts.report.run_tables import middle_and_ends
from test_score import save

SERIES = {"series": "1.2", "files": []}
BROWSER = shutil.which("chromium"), shutil.which("chromedriver")


def uncertain(folder, case, shape):
    entropy = np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape)
    nib.save(nib.Nifti1Image(entropy, np.diag([-2.0, -2, 2, 1])), folder / f"{case}_entropy.nii.gz")


@pytest.fixture
def run(tmp_path):
    """An evaluated and trained run of four patients, one of whom is missed and one perfect, with odd names."""
    truth = np.zeros((24, 26, 20), np.uint8)
    truth[5:15, 6:16, 4:12] = 2
    truth[7:11, 8:12, 6:10] = 4
    brain = np.zeros(truth.shape, np.uint8)
    brain[2:22, 2:24, 2:18] = 90
    run, data = tmp_path / "run", tmp_path / "data"
    cases = []
    for shift, case in enumerate(["A_<b>1", "B&2", "C_3", "D_4"]):
        predicted = np.zeros_like(truth) if shift == 3 else np.roll(truth, 2 * shift, axis=0)
        save(data / case, f"{case}_seg.nii.gz", truth)
        save(data / case, f"{case}_t1ce.nii.gz", brain + 20 * truth)
        save(run, f"{case}_seg.nii.gz", predicted)
        uncertain(run, case, truth.shape)
        paths = {"image": data / case / f"{case}_t1ce.nii.gz", "label": data / case / f"{case}_seg.nii.gz"}
        paths["prediction"] = run / f"{case}_seg.nii.gz"
        cases.append({"case": case} | {key: str(path) for key, path in paths.items()})
    score(str(run), str(data), str(run / "metrics.csv"), et_threshold_ml=0.1)
    about = {"command": "python -m monai.bundle run", "seed": 5, "versions": {"torch": "2.13.0"}, "cases": cases}
    about["data"] = {"datalist": "list.json", "sha256": "abc123"}
    about["configuration"] = {"epochs": 2, "note": "</script><script>alert(1)</script>"}
    (run / "evaluation.json").write_text(json.dumps(about))
    (run / "training.json").write_text(json.dumps(about))
    bins = [f"{region},{i},10,{i / 10 + 0.05},{i / 10}" for region in ("WT", "TC", "ET") for i in range(10)]
    (run / "calibration.csv").write_text("region,bin,voxels,probability,frequency\n" + "\n".join(bins))
    names = "epoch,lr/student,loss/student,loss/distil_flair,loss/total,weight/flair,dice/flair,validation/dice/WT"
    (run / "history.csv").write_text(f"{names}\n1,0.1,0.9,0.0,0.9,0.05,0.3,\n2,0.1,0.8,0.1,0.9,0.04,0.4,0.5\n")
    return run


def test_the_page_holds_all_of_a_run_and_needs_no_network(run):
    report(str(run))
    page = (run / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page) and "@import" not in page
    for text in (
        "Best: A_&lt;b&gt;1, Dice 1.000",
        "Worst: D_4, Dice 0.000",
        "abc123",
        "(TC): nothing was predicted in 1 of 4",
    ):
        assert text in page
    for text in (
        "Confidence in the teachers",
        "Terms of the loss",
        "Calibration",
        "373.13 mm",
        "Enhancing tumour (ET) is empty in the truth or in the prediction of D_4.",
        "Surface distance, 95th percentile (mm)",
    ):
        assert text in page
    assert "less than 0.1 ml" in page and "alert(1)</script>" not in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 4 * 5 + 3 + 1 + 6
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)


def test_the_tables_beside_the_page(run):
    report(str(run), output=str(run / "sub" / "page.html"))
    with open(run / "sub" / "page.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[0]["dice"]) == 1
    document = json.loads((run / "sub" / "page.json").read_text())
    assert document["evaluation"]["seed"] == 5 and document["scores"][0]["cases"] == 4
    assert document["calibration_error"]["WT"] == pytest.approx(0.05)
    assert list(document["shown"].values()) == ["C_3", "D_4", "A_<b>1"]
    assert [path.name for path in (run / "sub" / "page_files").iterdir()] == ["patient_0001.js"]


def test_volumes_beside_the_page_are_left_out_on_request(run):
    report(str(run))
    assert (run / "report_files").is_dir()
    report(str(run), volumes=False)
    assert (run / "report.html").is_file() and not (run / "report_files").exists()


def test_a_label_map_of_another_shape_is_left_out_and_named(run):
    save(run, "C_3_seg.nii.gz", np.zeros((8, 8, 8), np.uint8))
    report(str(run))
    page = (run / "report.html").read_text()
    assert "C_3_seg.nii.gz has shape (8, 8, 8), expected" in page and ">C_3</h3>" not in page
    assert "metrics.csv scores also C_3" in page and ">D_4</h3>" in page


def test_a_prediction_without_truth_is_reported_with_volumes(run):
    about = json.loads((run / "evaluation.json").read_text())
    for case in about["cases"]:
        del case["label"]
    about["cases"][0]["dicom"] = {"number": "7", "description": "t1 <km>", "why": "says km", **SERIES}
    (run / "inference.json").write_text(json.dumps(about))
    for name in ("evaluation.json", "training.json", "history.csv"):
        (run / name).unlink()
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(row for row in rows if "D_4" not in row))  # of other patients
    (run / "metrics_et_cleared.csv").unlink()
    report(str(run))
    page = (run / "report.html").read_text()
    assert page.count("<p>DICOM series 7, t1 &lt;km&gt;: says km.</p>") == 1
    assert "Largest tumour: A_&lt;b&gt;1, 6.4 ml" in page and ">Summary<" not in page and "Truth of" not in page
    with open(run / "report.csv", newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["C_3"] == {"case": "C_3", "WT_ml": "6.400", "TC_ml": "0.512", "ET_ml": "0.512"}
    assert float(rows["D_4"]["WT_ml"]) == 0
    assert "Missed tumour</span>" not in page and "Uncertainty: yellow" in page


def test_label_maps_that_were_scored_after_their_inference_are_reported_with_scores(run):
    (run / "evaluation.json").rename(run / "inference.json")
    for path in run.glob("*_entropy.nii.gz"):
        path.unlink()
    report(str(run))
    page = (run / "report.html").read_text()
    assert "Worst: D_4, Dice 0.000" in page and "373.13 mm" in page
    assert "Missed tumour</span>" in page and "Uncertainty: yellow" not in page


@pytest.mark.parametrize(
    "order, shown",
    [
        ("", {}),
        ("a", {"Best": "a"}),
        ("ab", {"Worst": "b", "Best": "a"}),
        ("abcd", {"Median": "c", "Worst": "d", "Best": "a"}),
    ],
)
def test_no_patient_is_shown_twice(order, shown):
    assert list(middle_and_ends(order, ["Best", "Median", "Worst"]).items()) == list(shown.items())


def test_what_a_report_needs_and_a_run_lacks_is_named(run, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} .*evaluation.json"):
        report(str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path} .*history.csv"):
        report(str(run), training=str(tmp_path))


def test_a_training_beside_a_comparison_is_rejected_before_work_starts(run):
    with pytest.raises(UserError, match="training is 'DIR'.* leave --training out"):
        report(compare=f"{run},{run}", training="DIR")
    assert not (run / "comparison.html").exists()


@pytest.mark.parametrize("seed, shown", [(0, True), (None, False)])
def test_a_seed_of_0_is_shown_and_none_is_not(run, seed, shown):
    for stage in ("evaluation", "training"):
        path = run / f"{stage}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": seed, "weights": {}, "data": None}))
    report(str(run), volumes=False)
    page = (run / "report.html").read_text()
    assert ("<b>Seed</b>: <code>0</code>" in page) == ("<b>Seed</b>" in page) == shown
    assert "<b>Weights</b>" not in page and "<b>Data</b>" not in page


def test_patients_and_truth_that_are_not_there_are_named_on_the_page(run):
    cases = json.loads((run / "evaluation.json").read_text())["cases"]
    shutil.move(cases[0]["image"], cases[0]["image"] + ".away")
    shutil.move(cases[1]["label"], cases[1]["label"] + ".away")
    report(str(run))
    page = (run / "report.html").read_text()
    assert (
        "Left out 1 of 4 patients, whose image does not exist: A_&lt;b&gt;1." in page
        and ">A_&lt;b&gt;1</h3>" not in page
    )
    assert "Truth and errors of 1 of 3 patients are not shown" in page and "Truth of C_3" in page
    for case in cases[1:]:
        shutil.move(case["image"], case["image"] + ".away")
    (run / "report.html").unlink()
    with pytest.raises(UserError, match=r"every image .* does not exist, such as .*A_<b>1_t1ce\.nii\.gz"):
        report(str(run))
    assert not (run / "report.html").exists()


def test_the_shipped_weights_are_known_after_a_move_and_unknown_ones_are_named(run):
    about = json.loads((run / "evaluation.json").read_text())
    checksum = sha256(BUNDLE / "models" / "model.pt")
    for weights, known in (({"/away/model.pt": checksum}, True), ({"/away/model.pt": "0"}, False)):
        (run / "evaluation.json").write_text(json.dumps(about | {"weights": weights}))
        report(str(run))
        page = (run / "report.html").read_text()
        assert ("It is not known which patients model.pt was trained on" in page) != known
        assert ("4 of 4 images look unlike those of the training" in page) == known


def test_an_image_with_values_below_0_is_shown_as_a_whole(tmp_path):
    voxels = np.zeros((12, 12, 12), np.float32)
    voxels[2:10, 2:10, 2:10] = np.linspace(-2, 2, 8)[:, None, None]
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2, 2, 1])), tmp_path / "image.nii.gz")
    save(tmp_path, "map.nii.gz", np.zeros(voxels.shape, np.uint8))
    found = LabelMap(tmp_path / "map.nii.gz", Meaning())
    patient = read_patient({"case": "a", "image": str(tmp_path / "image.nii.gz")}, {"Prediction": found}, None)
    assert patient.grey.shape == (8, 8, 8) and patient.grey.mean() == pytest.approx(0.5, abs=0.01)


def test_what_a_brain_mask_hid_from_the_network_is_not_shown(tmp_path):
    head = np.full((12, 12, 12), 50, np.uint8)
    save(tmp_path, "image.nii.gz", head)
    brain = np.zeros_like(head)
    brain[3:9, 3:9, 3:9] = 1
    save(tmp_path, "mask.nii.gz", brain)
    save(tmp_path, "map.nii.gz", 2 * brain)
    found = {"Prediction": LabelMap(tmp_path / "map.nii.gz", Meaning())}
    case = {"case": "a", "image": str(tmp_path / "image.nii.gz"), "brain_mask": str(tmp_path / "mask.nii.gz")}
    patient = read_patient(case, found, None)
    assert patient.grey.shape == (6, 6, 6) and np.count_nonzero(patient.image) == 6**3


@pytest.mark.parametrize("name", ["training.html", "metrics.html", "history.html"])
def test_a_page_replaces_no_document_of_the_run(run, name):
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=r"output .*would replace"):
        report(str(run), output=str(run / name))
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    "name, text",
    [
        ("calibration.csv", "case\nphantom_0000\n"),
        ("calibration.csv", "region,bin,voxels,probability,frequency\nWT,,10,0.5,0.5\n"),
        ("calibration.csv", ""),
        ("history.csv", "epoch,loss/total\n1,low\n"),
    ],
)
def test_a_damaged_table_is_named(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(UserError, match=name):
        report(str(run))
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("evaluation.json", "weights", []),
        ("evaluation.json", "label_values", [0, 1]),
        ("metrics.json", "truth", {"A_<b>1": 5}),
        ("metrics.json", "truth_values", "nope"),
    ],
)
def test_a_damaged_record_is_named(run, name, key, value):
    document = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(document | {key: value}))
    with pytest.raises(UserError, match=f"{name}.*{key}"):
        report(str(run))
    assert not (run / "report.html").exists()


def test_a_moved_or_copied_run_shows_its_own_label_maps(run, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    for path in run.glob("*_seg.nii.gz"):
        path.write_bytes(b"of another run")
    report(str(copied))
    assert json.loads((copied / "report.json").read_text())["shown"]
    (copied / "report.html").unlink()
    for path in copied.glob("*_seg.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=re.escape(str(copied / "A_<b>1_seg.nii.gz"))):
        report(str(copied))
    assert not (copied / "report.html").exists()


def test_a_cross_validation_shows_the_label_maps_of_its_folds(run, tmp_path):
    about = json.loads((run / "evaluation.json").read_text())
    for index, case in enumerate(about["cases"]):
        fold = run / f"fold_{index % 2}"
        fold.mkdir(exist_ok=True)
        shutil.move(case["prediction"], fold)
        case["prediction"] = str(tmp_path / "before" / fold.name / f"{case['case']}_seg.nii.gz")
    (run / "evaluation.json").write_text(json.dumps(about))
    report(str(run))
    assert "4 patients" in (run / "report.html").read_text()


def test_patients_that_a_report_leaves_out_or_adds_are_named(run, caplog):
    (run / "B&2_seg.nii.gz").unlink()
    rows = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(
        rows + "".join(row.replace("D_4", "E_5") + "\n" for row in rows.split() if "D_4" in row)
    )
    report(str(run))
    assert "label map does not exist: B&2" in caplog.text and "E_5" in caplog.text


def test_a_truncated_label_map_is_left_out_and_named(run, caplog):
    path = run / "C_3_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:150])
    report(str(run))
    assert "C_3_seg.nii.gz is unreadable or truncated" in caplog.text
    assert ">C_3</h3>" not in (run / "report.html").read_text()


def volumes_in(text):
    """Image and layers of a script, as the browser gets them."""
    content = json.loads(re.search(r'addVolumes\(\d+, "[^"]*", (.*)\);', text).group(1))
    read = {"Image": content["image"]} | {layer["title"]: layer["data"] for layer in content["layers"]}
    images = {
        title: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data))) for title, data in read.items()
    }
    return images, content["centre"]


def test_the_viewer_gets_every_layer_in_its_place(run):
    """In millimetres, voxels of the layers are those of the files, also of a file with other axes."""
    report(str(run))
    images, centre = volumes_in((run / "report_files" / "patient_0001.js").read_text())
    assert list(images) == ["Image", "Prediction", "Truth", "Error", "Uncertainty"]
    case = json.loads((run / "evaluation.json").read_text())["cases"][1]
    for title, key in (("Prediction", "prediction"), ("Truth", "label")):
        original, shown = nib.load(case[key]), images[title]
        data, expected = np.asarray(shown.dataobj), np.asarray(original.dataobj)
        voxels = np.argwhere(data == 3)
        there = np.rint(apply_affine(np.linalg.inv(original.affine) @ shown.affine, voxels)).astype(int)
        assert (expected[tuple(there.T)] == 4).all() and len(voxels) == (expected == 4).sum() > 0
        assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")
    found, real, error = (np.asarray(images[title].dataobj) for title in ("Prediction", "Truth", "Error"))
    assert ((error == 0) == (found == real)).all() and set(np.unique(error)) == {0, 1, 2, 3}
    voxel = np.rint(apply_affine(np.linalg.inv(images["Truth"].affine), centre)).astype(int)
    assert found[tuple(voxel)] or real[tuple(voxel)]
    grey = np.asarray(images["Image"].dataobj)
    assert grey.max() == 127 and grey[tuple(voxel)] > 1


def test_two_runs_are_compared_patient_by_patient(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    truth = json.loads((run / "evaluation.json").read_text())["cases"][3]["label"]
    shutil.copy(truth, other / "D_4_seg.nii.gz")
    score(str(other), str(tmp_path / "data"), str(other / "metrics.csv"))
    (run / "metrics_et_cleared.csv").unlink()
    report(compare=f"{run},{other}")
    page = (run / "comparison.html").read_text()
    for text in (
        "A loses most: D_4, Dice -1.000",
        "A is better on 0 of 4 patients, B on 1",
        ">WT: </span>",
        "Error of B of D_4",
        "A minus B",
    ):
        assert text in page, text
    with open(run / "comparison.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if (row["region"], row["metric"]) == ("WT", "dice"))
    assert float(row["difference"]) == pytest.approx(-1 / 4) and (row["wins"], row["losses"]) == ("0", "1")
    report(compare=f"{run},{other}")
    assert not (run / "report.html").exists()
    (other / "metrics.csv").unlink()
    with pytest.raises(UserError, match="has no scores"):
        report(compare=f"{run},{other}")
    for options in ({}, {"run": str(run), "compare": "a,b"}, {"compare": "a"}):
        with pytest.raises(UserError, match="compare"):
            report(**options)


def test_truth_of_a_later_scoring_is_shown_while_it_is_there(run, tmp_path):
    about = json.loads((run / "evaluation.json").read_text())
    for case in about["cases"]:
        del case["label"]
    (run / "evaluation.json").unlink()
    (run / "inference.json").write_text(json.dumps(about))
    report(str(run))
    assert "Truth of C_3" in (run / "report.html").read_text()
    shutil.move(tmp_path / "data", tmp_path / "away")
    for case in about["cases"]:
        case["image"] = case["image"].replace("/data/", "/away/")
    (run / "inference.json").write_text(json.dumps(about))
    report(str(run))
    assert "Truth of C_3" not in (run / "report.html").read_text()


def test_alerts_name_patients_of_the_training_and_images_unlike_it(run, tmp_path):
    weights = tmp_path / "training" / "models" / "model.pt"
    weights.parent.mkdir(parents=True)
    ranges = {"brain_ml": [1.0, 2.0], "dark_end": [0, 99], "bright_end": [0, 99], "sharpness": [0, 99]}
    (tmp_path / "training" / "training.json").write_text(json.dumps({"cases": [{"case": "C_3"}], "traits": ranges}))
    about = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(about | {"weights": {str(weights): "0"}}))
    report(str(run))
    page = (run / "report.html").read_text()
    assert "was trained on patients of 1 of these 4 scans" in page and ": C_3 (by training.json)" in page
    merged = about | {"weights": {str(weights): "0"}, "folds": 2}  # of a cross-validation
    (run / "evaluation.json").write_text(json.dumps(merged))
    report(str(run))
    assert "was trained on" not in (run / "report.html").read_text()
    assert "4 of 4 images look unlike those of the training" in page
    assert "Unlike all images of the training: a larger brain (56 ml, in training 1 to 2 ml)." in page


def test_volumes_that_no_report_wrote_stay(run):
    (run / "report_files").mkdir()
    (run / "report_files" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"report_files.*notes\.txt"):
        report(str(run))
    assert (run / "report_files" / "notes.txt").read_text() == "mine" and not (run / "report.html").exists()


def test_the_page_of_two_runs_tells_reasons_sources_and_patients_of_one_run_only(run, tmp_path):
    weights = tmp_path / "training" / "models" / "model.pt"
    weights.parent.mkdir(parents=True)
    ranges = {"brain_ml": [1.0, 2.0], "dark_end": [0, 99], "bright_end": [0, 99], "sharpness": [0, 99]}
    (tmp_path / "training" / "training.json").write_text(json.dumps({"cases": [{"case": "x"}], "traits": ranges}))
    about = json.loads((run / "evaluation.json").read_text()) | {"weights": {str(weights): "0"}}
    about["cases"][2]["dicom"] = {"number": "7", "description": "t1 km", "why": "says km", **SERIES}
    (run / "evaluation.json").write_text(json.dumps(about))
    other = tmp_path / "other"
    shutil.copytree(run, other)
    scores = json.loads((other / "metrics.json").read_text())
    scores["truth_checksum"]["C_3"] += 1
    (other / "metrics.json").write_text(json.dumps(scores))
    (other / "D_4_seg.nii.gz").unlink()
    report(compare=f"{run},{other}")
    page = (run / "comparison.html").read_text()
    assert page.count("B: Unlike all images of the training: a larger brain") == 3
    assert page.count("<p>DICOM series 7, t1 km: says km.</p>") == 1
    assert "Left out 1 patient, not in both runs or without their files: D_4." in page
    assert page.count("<dt>Dice</dt>") == 1
    assert "were scored against different truths of 1 of 4 scans: C_3." in page
    for name in ("A_<b>1", "B&2", "C_3"):
        (run / f"{name}_seg.nii.gz").unlink()
    with pytest.raises(UserError, match="no patient in common whose files are all there"):
        report(compare=f"{run},{other}")


def test_a_script_of_volumes_tells_whose_they_are(run):
    report(str(run))
    script = (run / "report_files" / "patient_0001.js").read_text()
    assert script.startswith('addVolumes(1, "B&2", {')
    page = (run / "report.html").read_text()
    assert 'addVolumes(0, "A_\\u003cb>1", {' in page and "if (name !== page.patients[number])" in page


def test_a_report_that_fails_leaves_page_and_volumes_of_before(run, monkeypatch):
    report(str(run))
    save(run, "B&2_seg.nii.gz", np.zeros((24, 26, 20), np.uint8))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr("scripts.report.draft.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(str(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["the volumes of before", "the new volumes", "the table", "the page"])
def test_a_report_that_cannot_be_put_in_its_place_says_so_and_leaves_page_and_volumes_of_before(
    place, run, monkeypatch
):
    report(str(run))
    before = {path: path.read_bytes() for path in (run / "report_files").iterdir()}
    before[run / "report.html"] = (run / "report.html").read_bytes()
    save(run, "B&2_seg.nii.gz", np.zeros((24, 26, 20), np.uint8))
    rename = Path.rename

    def busy(path, target):
        if (path.name if place == "the volumes of before" else Path(target).name) == "report_files" and ours(path):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    def ours(path):  # not the way back
        return path.parent == run

    def full(path, text, write=draft.write_text):
        if path.name in ("report.html", "report.csv"):
            raise UserError(f"{path} cannot be written")
        write(path, text)

    writers = {"the page": "write_text", "the table": "write_table"}
    monkeypatch.setattr(*((draft, writers[place], full) if place in writers else (Path, "rename", busy)))
    with pytest.raises(UserError, match=r"report.* cannot be written"):
        report(str(run))
    after = {path: path.read_bytes() for path in before}
    assert after == before and not list(run.glob(".*"))


def test_a_run_that_starts_in_the_folder_leaves_a_report_that_is_being_drawn(run, monkeypatch):
    def start_and_draw(patient, draw=draft.draw_pictures):
        FolderLock(str(run))
        return draw(patient)

    monkeypatch.setattr(draft, "draw_pictures", start_and_draw)
    (run / ".draft_killed").mkdir()
    (run / ".draft_killed" / ".lock").touch()
    report(str(run))
    assert [path.name for path in (run / "report_files").iterdir()] == ["patient_0001.js"]
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("name", ["report.html", "report.csv", "report.json", "comparison.html", "comparison.csv"])
def test_files_of_other_programs_stay(run, name):
    (run / name).write_text("mine")
    with pytest.raises(UserError, match=f"output .*would replace .*{name}, but this command did not write it"):
        report(compare=f"{run},{run}") if name.startswith("comparison") else report(str(run))
    assert (run / name).read_text() == "mine" and not (run / "report_files").exists()


@pytest.mark.parametrize("name", ["report.html", "page.html"])
@pytest.mark.parametrize("writer", ["write_json", "write_table", "write_text"])
def test_a_report_that_was_interrupted_does_not_block_the_next(run, name, writer, monkeypatch):
    def interrupted(path, content):
        if path.suffix != ".js":
            raise KeyboardInterrupt
        write_text(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(f"scripts.report.draft.{writer}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            report(str(run), output=str(run / name))
    report(str(run), output=str(run / name))
    assert (run / name).is_file()
    report(str(run), output=str(run / name))


def test_hidden_files_of_the_system_do_not_block_a_report(run):
    report(str(run))
    (run / "report_files" / ".DS_Store").write_text("of macOS")
    report(str(run))
    assert (run / "report_files" / "patient_0001.js").is_file()


def test_a_page_with_signs_in_its_name_finds_its_volumes(run):
    report(str(run), output=str(run / "a#b?c%20.html"))
    page = (run / "a#b?c%20.html").read_text()
    (address,) = json.loads(re.search(r'id="data">(.*)</script>', page).group(1))["scripts"].values()
    assert "#" not in address and "?" not in address
    assert (run / unquote(address)).is_file()


@pytest.fixture
def browser():
    if not all(BROWSER):
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER[0]
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "headless", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader", "disable-quic",
            "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
            "disable-dev-shm-usage", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(BROWSER[1]))
        yield driver
        driver.quit()


def opened(browser, number):
    """Wait until the viewer shows a patient, and return a checksum of what is on its canvas."""
    from selenium.webdriver.support.ui import WebDriverWait

    state = "return [document.getElementById('stage').dataset.open, document.getElementById('message').textContent]"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(state) == [str(number), ""])
    return pixels(browser)


def pixels(browser):
    """What is on the viewer's canvas now, (rows, columns, 3)."""
    address = browser.execute_script("viewer.drawScene(); return document.getElementById('canvas').toDataURL()")
    picture = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((600, 400))).astype(int)


def has_colour(picture, colour):
    """Whether a picture has pixels of a colour, faded over grey or not."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    chroma = picture - picture.mean(-1, keepdims=True)
    size = np.linalg.norm(chroma, axis=-1)
    wanted = wanted - wanted.mean()
    cosine = (chroma @ wanted) / np.maximum(size * np.linalg.norm(wanted), 1e-9)
    return ((cosine > 0.98) & (size > 30)).sum() > 20


@pytest.mark.slow
def test_the_page_works_in_a_browser(run, browser):
    report(str(run))
    browser.get((run / "report.html").as_uri())
    decoded = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    widths = browser.execute_script(decoded)
    assert len(widths) == 30 and min(widths) > 50

    opened(browser, 2)  # the median
    seen = []
    for number in range(4):
        browser.execute_script("document.querySelector(arguments[0]).click()", f"tbody button[data-patient='{number}']")
        seen.append(opened(browser, number))
    assert all((a != b).any() for a, b in itertools.pairwise(seen))

    browser.execute_script("document.querySelector(\"button[data-patient='1']\").click()")
    opened(browser, 1)
    boxes = browser.find_elements("css selector", "#layers input[type=checkbox]")
    assert [box.is_selected() for box in boxes] == [True, False, False, False]
    oedema, missed = CLASS_COLOURS[2], ERROR_COLOURS[1]
    assert has_colour(pixels(browser), oedema) and not has_colour(pixels(browser), missed)
    boxes[0].click()
    assert not has_colour(pixels(browser), oedema)
    boxes[2].click()
    assert has_colour(pixels(browser), missed)
    fade = browser.find_elements("css selector", "#layers input[type=range]")[2]
    browser.execute_script("arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", fade)
    assert not has_colour(pixels(browser), missed)
    before = pixels(browser)
    choose = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
    for view in ("0", "1", "2", "4"):
        browser.execute_script(choose, browser.find_element("id", "view"), view)
        assert (pixels(browser) != before).any()

    head = browser.find_elements("css selector", "table.sortable thead button")[1]
    column = (
        "return [...document.querySelectorAll('table.sortable tbody tr')].filter(r => !r.hidden)"
        ".map(r => Number(r.cells[1].dataset.value))"
    )
    for direction in (1, -1):
        browser.execute_script("arguments[0].click()", head)
        values = browser.execute_script(column)
        assert values == sorted(values, key=lambda value, sign=direction: sign * value) and len(values) == 4

    for width in (1280, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_volumes_of_another_report_are_not_shown_and_missing_values_sort_last(run, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    report(str(run), output=str(run / "a#b?c%20.html"))
    browser.get((run / "a#b?c%20.html").as_uri())
    opened(browser, 2)
    browser.execute_script("document.querySelector(\"tbody button[data-patient='1']\").click()")
    opened(browser, 1)
    script = run / "a#b?c%20_files" / "patient_0001.js"
    script.write_text(script.read_text().replace('"B&2"', '"E_5"', 1))  # of a report made since
    for number in (2, 1):
        browser.execute_script("document.querySelector(arguments[0]).click()", f"tbody button[data-patient='{number}']")
        if number == 2:
            opened(browser, 2)
    message = "return document.getElementById('message').textContent"
    WebDriverWait(browser, 60).until(lambda driver: "reload the page" in driver.execute_script(message))
    assert "E_5" in browser.execute_script(message) and not browser.execute_script("return viewer.volumes.length")

    browser.execute_script(
        "const cell = document.querySelector(\"table.sortable tr[data-region='WT']\").cells[1];"
        "delete cell.dataset.value; cell.textContent = '–';"
    )
    head = browser.find_elements("css selector", "table.sortable thead button")[1]
    rows = "document.querySelectorAll(\"table.sortable tr[data-region='WT']\")"
    column = f"return [...{rows}].map(row => row.cells[1].textContent)"
    for down in (False, True):
        browser.execute_script("arguments[0].click()", head)
        *values, last = browser.execute_script(column)
        assert last == "–" and values == sorted(values, key=float, reverse=down) and len(values) == 3
