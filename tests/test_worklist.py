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
