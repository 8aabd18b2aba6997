import json

import pytest

from scripts.errors import UserError
from scripts.inference.worklist import find_work


def test_work_that_is_done_is_named(cohort_source, tmp_path, caplog):
    (tmp_path / "phantom_0002_seg.nii.gz").touch()
    image = (cohort_source / "data" / "phantom_0002" / "phantom_0002_t1ce.nii.gz").resolve()
    case = {"image": str(image), "prediction": "there/phantom_0002_seg.nii.gz"}
    (tmp_path / "inference.json").write_text(json.dumps({"cases": [case]}))
    images = find_work(str(cohort_source / "data"), output_dir=str(tmp_path))
    assert len(images["all"]) == 6
    assert {image["case"] for image in images["all"]} - {image["case"] for image in images["left"]} == {"phantom_0002"}
    assert f"1 of 6 label maps are in {tmp_path}" in caplog.text
    assert len(find_work(str(cohort_source / "data"), output_dir=str(tmp_path), overwrite=True)["left"]) == 6


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_truth_beside_an_image_is_never_taken_for_a_prediction_or_overwritten(cohort, overwrite):
    folder = cohort / "data" / "phantom_0002"
    with pytest.raises(UserError, match=r"inference\.json.*phantom_0002_seg\.nii\.gz"):
        find_work(str(folder), output_dir=str(folder), overwrite=overwrite)


def test_a_datalist_names_the_images(cohort_source):
    images = find_work(str(cohort_source / "data"), "t1", str(cohort_source / "datalist.json"))["all"]
    assert [image["case"] for image in images] == [f"phantom_000{index}" for index in range(6)]
    assert all(image["image"].endswith("_t1.nii.gz") and "label" not in image for image in images)


@pytest.mark.parametrize("sequence", ["t3", ["t1", "t2"]])
def test_only_one_of_the_four_sequences_can_be_predicted_from(cohort_source, sequence):
    with pytest.raises(UserError, match="student_sequence is "):
        find_work(str(cohort_source / "data"), sequence)


def test_patterns_beside_a_datalist_are_rejected(cohort_source):
    datalist = str(cohort_source / "datalist.json")
    for options in ({"names": {"t1ce": "*_t1ce.nii.gz"}}, {"patient": "(.*)_1"}):
        with pytest.raises(UserError, match="datalist is "):
            find_work(str(cohort_source / "data"), datalist=datalist, **options)


@pytest.mark.slow
def test_label_maps_are_named_after_the_case_that_a_pattern_gives(cohort, tmp_path, command):
    for case in (0, 1):
        folder = tmp_path / "in" / f"P{case}"
        folder.mkdir(parents=True)
        (cohort / "data" / f"phantom_000{case}" / f"phantom_000{case}_t1ce.nii.gz").rename(folder / "post.nii.gz")
    options = ["--t1ce", "*/post.nii.gz", "--patient", r"(P)\d", "--mirror", "False"]
    run = ["scripts", "predict", "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out", *options]
    result = command(*run)
    assert result.returncode == 0, result.stderr
    cases = json.loads((tmp_path / "out" / "inference.json").read_text())["cases"]
    maps = {case["case"]: case["prediction"].rsplit("/", 1)[1] for case in cases}
    assert maps == {"P0": "P0_seg.nii.gz", "P1": "P1_seg.nii.gz"}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == set(maps.values())
    assert command(*run, "--t2", "*_none.nii.gz").returncode != 0
