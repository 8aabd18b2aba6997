import base64
import csv
import io
import json
import re
import shutil
import tempfile

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.evaluation.score import score
from scripts.method.resunet import ResUNet
from scripts.report.mosaic import STEPS, draw_mosaic
from scripts.report.report import ends_and_middle, report
from test_score import save

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
    for text in ("Best, whole-tumour Dice 1.000: A_&lt;b&gt;1", "Worst, whole-tumour Dice 0.000: D_4", "abc123"):
        assert text in page
    for text in (
        "Confidence in the teachers",
        "Loss of the soft targets",
        "Calibration",
        "373.13 mm",
        "WT 1, TC 1, ET 1",
    ):
        assert text in page
    assert "less than 0.1 ml" in page and "alert(1)</script>" not in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 3 * 5 + 3 + 1 + 7
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)


def test_the_tables_beside_the_page(run):
    report(str(run), output=str(run / "sub" / "page.html"))
    with open(run / "sub" / "page.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[0]["dice"]) == 1
    document = json.loads((run / "sub" / "page.json").read_text())
    assert document["evaluation"]["seed"] == 5 and document["scores"][0]["cases"] == 4
    assert document["calibration_error"]["WT"] == pytest.approx(0.05)
    assert next(iter(document["shown"].values())) == "A_<b>1"


def test_a_prediction_without_truth_is_reported_with_volumes(run):
    about = json.loads((run / "evaluation.json").read_text())
    for case in about["cases"]:
        del case["label"]
    (run / "inference.json").write_text(json.dumps(about))
    for name in ("evaluation.json", "training.json", "history.csv"):
        (run / name).unlink()
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(row for row in rows if "D_4" not in row))  # of other patients
    (run / "metrics_et_cleared.csv").unlink()
    report(str(run))
    page = (run / "report.html").read_text()
    assert "Largest tumour, 6.400 ml" in page and "Summary" not in page and 'data-panel="truth"' not in page
    with open(run / "report.csv", newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["C_3"] == {"case": "C_3", "WT_ml": "6.400", "TC_ml": "0.512", "ET_ml": "0.512"}
    assert float(rows["D_4"]["WT_ml"]) == 0
    assert "missed tumour" not in page and "entropy, yellow is high" in page


def test_label_maps_that_were_scored_after_their_inference_are_reported_with_scores(run):
    (run / "evaluation.json").rename(run / "inference.json")
    for path in run.glob("*_entropy.nii.gz"):
        path.unlink()
    report(str(run))
    page = (run / "report.html").read_text()
    assert "Worst, whole-tumour Dice 0.000: D_4" in page and "373.13 mm" in page
    assert "missed tumour" in page and "entropy" not in page


@pytest.mark.parametrize(
    "order, shown",
    [
        ("", {}),
        ("a", {"Best": "a"}),
        ("ab", {"Best": "a", "Worst": "b"}),
        ("abcd", {"Best": "a", "Median": "c", "Worst": "d"}),
    ],
)
def test_no_patient_is_shown_twice(order, shown):
    assert ends_and_middle(order, ["Best", "Median", "Worst"]) == shown


def test_what_a_report_needs_and_a_run_lacks_is_named(run, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} .*evaluation.json"):
        report(str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path} .*history.csv"):
        report(str(run), training=str(tmp_path))
    image = json.loads((run / "evaluation.json").read_text())["cases"][0]["image"]
    shutil.move(image, image + ".away")
    with pytest.raises(UserError, match=re.escape(image)):
        report(str(run))
    assert not (run / "report.html").exists()


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
    assert "B&2_seg.nii.gz" in caplog.text and "E_5" in caplog.text


def test_a_truncated_label_map_is_named(run):
    path = run / "C_3_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(UserError, match=r"C_3_seg\.nii\.gz"):
        report(str(run))
    assert not (run / "report.html").exists()


def test_a_mosaic_has_a_picture_for_every_position(run):
    case = json.loads((run / "evaluation.json").read_text())["cases"][1]
    paths = [run.__class__(case[key]) for key in ("image", "prediction", "label")]
    mosaic = draw_mosaic(*paths, None, None, {0: 0, 1: 1, 2: 2, 3: 3, 4: 3})
    assert set(mosaic.panels) == {"input", "truth", "prediction", "error"}
    assert all(len(images) == STEPS for images in mosaic.panels.values())
    middle = [np.asarray(Image.open(io.BytesIO(images[mosaic.start]))) for images in mosaic.panels.values()]
    assert len({image.shape for image in middle}) == 1
    assert all(np.abs(middle[0].astype(int) - image).mean() > 1 for image in middle[1:])


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
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(BROWSER[1]))
        yield driver
        driver.quit()


@pytest.mark.slow
def test_the_page_works_in_a_browser(run, browser):
    report(str(run))
    browser.get((run / "report.html").as_uri())
    decoded = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    widths = browser.execute_script(decoded)
    assert len(widths) == 26 and min(widths) > 50

    slider = browser.find_element("css selector", "input[type=range]")
    section = slider.find_element("xpath", "ancestor::section")
    panels = section.find_elements("css selector", "img")
    before = [image.get_attribute("src") for image in panels]
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(move, slider, STEPS // 2)
    after = [image.get_attribute("src") for image in panels]
    assert all(a != b for a, b in zip(after, before)) and f"{STEPS // 2 + 1} of {STEPS}" in section.text
    last = base64.b64decode(after[1].split(",")[1])
    assert Image.open(io.BytesIO(last)).height == 150

    head = browser.find_elements("css selector", "table.sortable th button")[2]
    column = "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => Number(r.cells[2].textContent))"
    for direction in (1, -1):
        browser.execute_script("arguments[0].click()", head)
        values = browser.execute_script(column)
        assert values == sorted(values, key=lambda value, sign=direction: sign * value) and len(set(values)) > 2

    for width in (1280, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_an_evaluation_can_be_reported_as_it_is(cohort_source, tmp_path, command):
    torch.save(ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).state_dict(), tmp_path / "model.pt")
    evaluated = command(
        "monai.bundle", "run", "evaluating", "--config_file", "['configs/train.yaml','configs/evaluate.yaml']",
        "--dataset_dir", cohort_source / "data", "--datalist", cohort_source / "datalist.json",
        "--ckpt_path", tmp_path / "model.pt", "--output_dir", tmp_path / "out", "--student_widths", "[4,4,8,8]",
        "--window_size", "[32,32,32]", "--spacing", "$None", "--overlap", "0", "--mirror", "False",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    result = command("scripts", "report", "--run", tmp_path / "out", cwd=BUNDLE)
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    about = document["evaluation"]
    assert about["seed"] == 0 and len(about["data"]["sha256"]) == 64 and len(about["weights"]) == 1
    assert "--overlap 0" in about["command"] and about["configuration"]["window_size"] == [32, 32, 32]
    assert about["versions"]["monai"] == monai.__version__ and about["label_values"] == [0, 1, 2, 4]
    assert 'data-panel="uncertainty"' in (tmp_path / "out" / "report.html").read_text()
