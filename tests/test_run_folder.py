"""What the folder of a run is taken for: after a move, with several records in it, with scores of other patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.errors import UserError
from scripts.evaluation.score import score
from scripts.evaluation.summary import write_scores
from scripts.folders.case import stamp
from scripts.inference.record import record_inference
from scripts.report.alerts import Alerts
from scripts.report.run_folder import open_run
from test_score import save
from test_summary import scores

CASES = ["case_0", "case_1", "case_2"]


def case_of(folder: Path, name: str, images: Path) -> dict[str, str]:
    """A case of a record, with files of the same small volume."""
    paths = {"prediction": folder / f"{name}_seg.nii.gz", "image": images / f"{name}.nii.gz"}
    paths["brain_mask"] = images / f"{name}_mask.nii.gz"
    for path in paths.values():
        save(path.parent, path.name, np.ones((4, 4, 4)))
    return {"case": name} | {key: str(path) for key, path in paths.items()}


def record(folder: Path, cases: list[dict[str, str]], stage: str = "evaluation", **about: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps({"cases": cases, **about}))


@pytest.mark.parametrize("fold, opened", [("", ""), ("fold_1", ""), ("fold_1", "fold_1")])
def test_all_that_lay_in_a_moved_run_is_found_in_its_new_place(fold, opened, tmp_path):
    """Of a run, of a cross-validation, and of one of its folds alone."""
    out, elsewhere = tmp_path / "out", tmp_path / "data"
    home = out / fold
    inside = case_of(home, "case_0", home / "dicom")
    outside = case_of(home, "case_1", elsewhere)
    inside["images"] = [inside["image"], outside["image"]]
    weights = home / "models" / "model.pt"
    record(out / opened, [inside, outside], weights={str(weights): "0", str(elsewhere / "b.pt"): "1"})
    (home / "training.json").write_text(json.dumps({"cases": [{"case": "case_1"}]}))
    out.rename(tmp_path / "new")
    home = tmp_path / "new" / fold
    run = open_run(str(tmp_path / "new" / opened))
    assert run.cases["case_0"]["image"] == str(home / "dicom" / "case_0.nii.gz")
    assert run.cases["case_0"]["images"] == [run.cases["case_0"]["image"], outside["image"]]
    assert run.cases["case_0"]["brain_mask"] == str(home / "dicom" / "case_0_mask.nii.gz")
    assert run.cases["case_1"] == outside | {"prediction": str(home / "case_1_seg.nii.gz")}
    assert list(run.record["weights"].values()) == ["0", "1"]
    assert [sentence for sentence in Alerts(run).seen() if "trained on patients of 1 of these 2 scans" in sentence]


def test_cases_of_the_other_record_and_of_earlier_settings_are_named(tmp_path):
    cases = [case_of(tmp_path, name, tmp_path) for name in (*CASES, "case_3")]
    record(tmp_path, cases[:1])
    assert open_run(str(tmp_path)).notes == []
    record(tmp_path, cases[:2], "inference", earlier=[{"settings": {}, "cases": cases[2:3]}, {"settings": {}}])
    (note,) = open_run(str(tmp_path)).notes
    assert "2 patients" in note and "case_1, case_2." in note and "evaluation.json" in note
    (tmp_path / "evaluation.json").unlink()
    run = open_run(str(tmp_path))
    assert list(run.cases) == CASES[:2] and "1 patient of" in run.notes[0] and "case_2." in run.notes[0]


def test_scores_are_said_to_be_of_others_only_where_they_are(tmp_path):
    cases = [case_of(tmp_path, name, tmp_path) for name in CASES]
    write_scores(tmp_path / "metrics.csv", scores([0.5, 0.6]), "brats")  # not of case_2
    record(tmp_path, cases)
    run = open_run(str(tmp_path))
    assert run.tables == [] and "left out" in run.notes[0] and "case_2" in run.notes[0]
    Path(cases[2]["image"]).unlink()  # so the table scores all that can be shown
    run = open_run(str(tmp_path))
    assert len(run.tables) == 1 and not any("metrics.csv" in note for note in run.notes)
    Path(cases[1]["image"]).unlink()
    assert any("metrics.csv scores also case_1" in note for note in open_run(str(tmp_path)).notes)


def test_weights_of_one_name_are_told_apart(tmp_path):
    cases = [case_of(tmp_path / "fold_0", "case_0", tmp_path)]
    names = [f"fold_{fold}/models/model.pt" for fold in (0, 1)]
    record(tmp_path, cases, weights={str(tmp_path / name): str(fold) for fold, name in enumerate(names)})
    run = open_run(str(tmp_path))
    assert list(run.weights.values()) == names
    assert all(any(name in sentence for sentence in Alerts(run).unknown()) for name in names)
    record(tmp_path, cases, weights={str(tmp_path / names[0]): "0"})
    assert list(open_run(str(tmp_path)).weights.values()) == ["model.pt"]


@pytest.fixture
def scored(tmp_path):
    """Replaces a file of a scored inference of two cases, and opens the run."""
    run = tmp_path / "run"
    cases = [case_of(run, name, tmp_path / "images") for name in CASES[:2]]
    for name in CASES[:2]:
        save(tmp_path / "truth", f"{name}.nii.gz", np.eye(4)[..., None].repeat(4, -1))
    record(run, [case | stamp(case) for case in cases], "inference", label_values=[0, 1, 2, 4])
    score(str(run), str(tmp_path / "truth"), str(run / "metrics.csv"))
    assert open_run(str(run)).notes == []

    def opened_after(path, label):
        save((tmp_path / path).parent, Path(path).name, label)
        return open_run(str(run))

    return opened_after


@pytest.mark.parametrize(
    "path, words",
    [
        (
            "run/case_1_seg.nii.gz",
            "metrics.csv are of other label maps than those shown here, in 1 of 2 scans: case_1.",
        ),
        (
            "truth/case_1.nii.gz",
            "metrics.csv are of other true label maps than those shown here, in 1 of 2 scans: case_1",
        ),
        ("images/case_1.nii.gz", "The images of 1 of 2 scans may have changed since they were predicted"),
    ],
)
def test_a_file_that_was_replaced_since_it_was_scored_or_predicted_is_named(path, words, scored):
    run = scored(path, 2 * np.ones((4, 4, 4)))
    (note,) = run.notes
    assert words in note and list(run.cases) == CASES[:2]


def test_a_record_without_checksums_and_times_says_nothing_of_replaced_files(scored, tmp_path):
    for name in ("metrics.json", "inference.json"):
        document = json.loads((tmp_path / "run" / name).read_text())
        for key in ("prediction_checksum", "truth_checksum"):
            document.pop(key, None)
        for case in document["cases"] if name == "inference.json" else ():
            del case["size"], case["time_ns"]
        (tmp_path / "run" / name).write_text(json.dumps(document))
    assert scored("run/case_1_seg.nii.gz", 2 * np.ones((4, 4, 4))).notes == []


@pytest.mark.parametrize(
    "values, shape, words",
    [
        ([1, 2, 3], (4, 4, 4), ""),  # as 3D Slicer saves ET, which the run wrote as 4
        ([1, 2, 7], (4, 4, 4), "case_1_seg.nii.gz: unknown label values [7]"),
        ([1, 3, 4], (4, 4, 4), "case_1_seg.nii.gz: holds 3 and 4"),
        ([1, 2, 4], (4, 4, 5), "case_1_seg.nii.gz has shape (4, 4, 5), expected (4, 4, 4)"),
    ],
)
def test_a_label_map_that_cannot_be_shown_is_left_out_and_not_the_others(values, shape, words, scored):
    label = np.zeros(shape)
    label[0, 0, :3] = values
    run = scored("run/case_1_seg.nii.gz", label)
    if not words:
        assert list(run.cases) == CASES[:2] and np.unique(run.prediction("case_1").classes(shape)).tolist() == [
            *range(4)
        ]
        return
    assert list(run.cases) == ["case_0"] and len(run.tables) == 1
    assert words in run.notes[0] and "Left out 1 of 2 patients" in run.notes[0]
    assert "metrics.csv scores also case_1" in run.notes[1]


@pytest.mark.parametrize("dicom", [{"series": "1.2"}, {"number": 7}, []])
def test_a_record_whose_dicom_series_is_of_another_form_is_named(dicom, tmp_path):
    record(tmp_path, [case_of(tmp_path, "case_0", tmp_path) | {"dicom": dicom}], "inference")
    with pytest.raises(UserError, match=r"inference\.json: cases::0::dicom"):
        open_run(str(tmp_path))


@pytest.mark.parametrize("earlier", [False, True])
def test_images_of_several_sequences_are_only_named_if_one_was_replaced(earlier, tmp_path):
    """An earlier version recorded the first image alone."""
    data, out = tmp_path / "data", tmp_path / "out"
    images = []
    for case in CASES[:2]:
        files = [str(data / f"{case}_{name}.nii.gz") for name in ("t1ce", "t2")]
        for path in (*files, out / f"{case}_seg.nii.gz"):
            save(Path(path).parent, Path(path).name, np.ones((4, 4, 4)))
        images.append({"case": case, "image": files} | stamp({"image": files}))
    for part in (images, images[:1]):  # the second prediction keeps what the first recorded of the other patient
        record_inference(str(out), part, [], {"student_sequence": ["t1ce", "t2"]}, label_values=[0, 1, 2, 4])
    if earlier:
        document = json.loads((out / "inference.json").read_text())
        for case in document["cases"]:
            del case["images"]
        (out / "inference.json").write_text(json.dumps(document))
    assert open_run(str(out)).notes == []
    save(data, "case_1_t2.nii.gz", np.arange(64).reshape(4, 4, 4))
    notes = open_run(str(out)).notes
    assert [note.partition(" may have")[0] for note in notes] == ([] if earlier else ["The images of 1 of 2 scans"])
