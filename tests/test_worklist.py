import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.errors import UserError
from scripts.files import replacing
from scripts.inference.record import Replacement, record_inference
from scripts.inference.worklist import find_work
from scripts.inference.writers import KEEP
from scripts.locking import FolderLock
from scripts.method.resunet import ResUNet


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


def test_an_image_that_changed_since_is_a_fault_of_its_patient_alone(cohort, tmp_path):
    image = (cohort / "data" / "phantom_0002" / "phantom_0002_t1ce.nii.gz").resolve()
    before = image.stat()
    options = {"dataset_dir": str(cohort / "data"), "output_dir": str(tmp_path)}
    work = find_work(**options)["all"]
    record_inference(str(tmp_path), work, [], {})
    (tmp_path / "phantom_0002_seg.nii.gz").touch()
    assert len(find_work(**options)["left"]) == 5
    image.write_bytes(b"x" * 5000)
    for shown in (f"size 5000, was {before.st_size}", "time 2001-0.*, was 20"):
        faults = {image["case"]: image.get("fault", "") for image in find_work(**options)["left"]}
        sentence = rf"{image} was changed after phantom_0002_seg was predicted \({shown}"
        assert len(faults) == 6 and re.match(sentence, faults.pop("phantom_0002")) and not any(faults.values())
        image.write_bytes(b"x" * before.st_size)
        os.utime(image, (1e9, 1e9))
    record_inference(str(tmp_path), find_work(**options)["all"], [], {})
    assert len([image for image in find_work(**options)["left"] if "fault" in image]) == 1  # also the next time
    assert not any("fault" in image for image in find_work(**options, overwrite=True)["left"])


def test_a_second_sequence_that_changed_since_is_seen_too(cohort, tmp_path):
    image = cohort / "data" / "phantom_0002" / "phantom_0002_t2.nii.gz"
    options = {"dataset_dir": str(cohort / "data"), "output_dir": str(tmp_path), "sequence": ["t1ce", "t2"]}
    record_inference(str(tmp_path), find_work(**options)["all"], [], {})
    (tmp_path / "phantom_0002_seg.nii.gz").touch()
    assert len(find_work(**options)["left"]) == 5
    image.write_bytes((cohort / "data" / "phantom_0003" / "phantom_0003_t2.nii.gz").read_bytes())
    assert [image["case"] for image in find_work(**options)["left"] if "fault" in image] == ["phantom_0002"]


def test_images_that_lack_a_wanted_file_are_predicted_again(cohort_source, tmp_path, caplog):
    options = {"dataset_dir": str(cohort_source / "data"), "output_dir": str(tmp_path)}
    record_inference(str(tmp_path), find_work(**options)["all"], [], {})
    for number in range(6):
        (tmp_path / f"phantom_000{number}_seg.nii.gz").touch()
    (tmp_path / "phantom_0003_entropy.nii.gz").touch()
    assert find_work(**options, also={"entropy.nii.gz": False})["left"] == []
    assert find_work(**options, also={"seg.dcm": True})["left"] == []  # not of NIfTI files
    with caplog.at_level("INFO"):
        left = find_work(**options, also={"entropy.nii.gz": True})["left"]
    assert {image["case"] for image in left} == {f"phantom_000{number}" for number in (0, 1, 2, 4, 5)}
    assert "Label maps without entropy.nii.gz: 5. It is added, and the label maps stay." in caplog.text
    assert all(image[KEEP] for image in left)
    assert not any(KEEP in image for image in find_work(**options, overwrite=True)["left"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_truth_beside_an_image_is_never_taken_for_a_prediction_or_overwritten(cohort, overwrite):
    folder = cohort / "data" / "phantom_0002"
    with pytest.raises(UserError, match=r"inference\.json.*phantom_0002_seg\.nii\.gz"):
        find_work(str(folder), output_dir=str(folder), overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("ending", ["entropy.nii.gz", "probabilities.nii.gz", "seg.dcm"])
def test_files_beside_a_label_map_are_only_replaced_if_an_inference_wrote_them(ending, overwrite, cohort, tmp_path):
    options = {"dataset_dir": str(cohort / "data"), "output_dir": str(tmp_path), "overwrite": overwrite}
    work = find_work(**options)["all"]
    (tmp_path / f"phantom_0002_{ending}").write_text("another program's")
    with pytest.raises(UserError, match=f"1 file.* does not list .phantom_0002_{ending}"):
        find_work(**options)
    record_inference(str(tmp_path), [image for image in work if image["case"] == "phantom_0002"], [], {})
    record_inference(str(tmp_path), [image for image in work if image["case"] == "phantom_0003"], [], {})
    assert len(find_work(**options)["left"]) == 6  # its prediction may have been stopped before its label map


def test_a_datalist_names_the_images(cohort_source):
    images = find_work(str(cohort_source / "data"), "t1", str(cohort_source / "datalist.json"))["all"]
    assert [image["case"] for image in images] == [f"phantom_000{index}" for index in range(6)]
    assert all(image["image"].endswith("_t1.nii.gz") and "label" not in image for image in images)


def cases_left(folder, shard):
    return {image["case"] for image in find_work(str(folder), shard=shard)["left"]}


def test_shards_take_each_image_once(cohort_source):
    shares = [cases_left(cohort_source / "data", f"{part}/4") for part in (1, 2, 3, 4)]
    assert sorted(chain(*shares)) == [f"phantom_000{index}" for index in range(6)]
    for wrong in ("0/4", "5/4", "1", "1/0", "one/4"):
        with pytest.raises(UserError, match=f"shard is '{wrong}', expected K/N "):
            find_work(str(cohort_source / "data"), shard=wrong)


def test_a_name_whose_bytes_are_no_utf_8_has_a_share(cohort, tmp_path):
    name = os.fsdecode(b"M\xfcller")
    (cohort / "data" / "phantom_0003" / "phantom_0003_t1ce.nii.gz").rename(tmp_path / f"{name}_t1ce.nii.gz")
    assert [cases_left(tmp_path / f"{name}_t1ce.nii.gz", f"{part}/2") for part in (1, 2)].count({name}) == 1


def test_a_file_that_arrives_between_two_shards_moves_no_other_one(cohort):
    first = cases_left(cohort / "data", "1/2")
    shutil.copy(cohort / "data" / "phantom_0003" / "phantom_0003_t1ce.nii.gz", cohort / "data" / "a_t1ce.nii.gz")
    assert first | cases_left(cohort / "data", "2/2") >= {f"phantom_000{index}" for index in range(6)}


def test_an_empty_share_has_nothing_to_do_and_the_record_lists_all_patients(cohort_source, tmp_path, caplog):
    options = {"dataset_dir": str(cohort_source / "data" / "phantom_0002"), "output_dir": str(tmp_path)}
    with caplog.at_level("INFO"):
        work = [find_work(**options, shard=f"{part}/2") for part in (1, 2)]
    assert sorted(len(found["left"]) for found in work) == [0, 1]
    assert "Nothing to do: none of the 1 images is in share" in caplog.text
    assert [[image["case"] for image in found["all"]] for found in work] == [["phantom_0002"]] * 2
    empty = next(found for found in work if not found["left"])
    record_inference(str(tmp_path), empty["all"], [], {}, shard="1/2")
    assert [case["case"] for case in json.loads((tmp_path / "inference.json").read_text())["cases"]] == ["phantom_0002"]


def test_shards_share_a_folder_and_its_record(cohort_source, tmp_path):
    out = str(tmp_path)
    first, second = FolderLock(out, shard="1/2"), FolderLock(out, shard="2/2")
    for part in ("1/2", "2/2"):  # the second begins before the first has a label map
        record_inference(
            out, find_work(str(cohort_source / "data"), shard=part)["all"], [], {"mirror": True}, shard=part
        )
    record = json.loads((tmp_path / "inference.json").read_text())
    assert {case["case"] for case in record["cases"]} == {f"phantom_000{index}" for index in range(6)}
    (tmp_path / ".part_1").touch()  # what a shard is writing
    del first
    with pytest.raises(UserError, match=f"{out} is in use"):
        FolderLock(out)
    assert (tmp_path / ".part_1").is_file()
    del second
    whole = FolderLock(out)
    assert whole.hold and {path.name for path in tmp_path.iterdir()} == {".lock", "inference.json"}


@pytest.mark.slow
def test_two_shards_at_a_time_predict_what_one_command_does(cohort_source, command, tmp_path):
    line = ["scripts", "predict", "--dataset_dir", cohort_source / "data", "--mirror", "False", "--output_dir"]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda part: command(*line, tmp_path / "out", "--shard", part), ["1/2", "2/2"]))
    results.append(command(*line, tmp_path / "whole"))
    assert [result.returncode for result in results] == [0, 0, 0], results[0].stderr[-2000:]
    maps = sorted(path.name for path in (tmp_path / "whole").glob("*_seg.nii.gz"))
    assert len(maps) == 6 and sorted(path.name for path in (tmp_path / "out").iterdir()) == ["inference.json", *maps]
    for name in maps:
        one, other = (nib.load(tmp_path / folder / name).get_fdata() for folder in ("out", "whole"))
        np.testing.assert_array_equal(one, other)
    cases = [json.loads((tmp_path / folder / "inference.json").read_text())["cases"] for folder in ("out", "whole")]
    assert {case["case"] for case in cases[0]} == {case["case"] for case in cases[1]}


def test_patterns_beside_a_datalist_are_rejected(cohort_source):
    datalist = str(cohort_source / "datalist.json")
    with pytest.raises(UserError, match="datalist is .*, which names files itself: leave out --t1ce"):
        find_work(str(cohort_source / "data"), datalist=datalist, names={"t1ce": "*_t1ce.nii.gz"})


@pytest.mark.slow
def test_label_maps_are_named_after_the_case_that_a_pattern_gives(cohort, tmp_path, command):
    for case in (0, 1):
        folder = tmp_path / "in" / f"P{case}"
        folder.mkdir(parents=True)
        (cohort / "data" / f"phantom_000{case}" / f"phantom_000{case}_t1ce.nii.gz").rename(folder / "post.nii.gz")
    options = ["--t1ce", "*/post.nii.gz", "--mirror", "False"]
    run = ["scripts", "predict", "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out", *options]
    result = command(*run)
    assert result.returncode == 0, result.stderr
    cases = json.loads((tmp_path / "out" / "inference.json").read_text())["cases"]
    maps = {case["case"]: case["prediction"].rsplit("/", 1)[1] for case in cases}
    assert maps == {"P0": "P0_seg.nii.gz", "P1": "P1_seg.nii.gz"}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == set(maps.values())
    assert command(*run, "--t2", "*_none.nii.gz").returncode != 0


DICOM = '{"cases": [{"image": "a", "prediction": "b", "dicom": {"series": "1.2"}}]}'


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '{"cases": 3}', DICOM, '{"cases": [{"image": "a"}]}', '{"settings": []}', '{"earlier": [3]}'],
)
def test_a_record_of_another_form_is_named(text, cohort_source, tmp_path):
    (tmp_path / "inference.json").write_text(text)
    with pytest.raises(UserError, match=r"inference\.json.*: predict into another output_dir; the label maps in this"):
        find_work(str(cohort_source / "data"), output_dir=str(tmp_path))


@pytest.fixture
def predicted(tmp_path):
    """Pretend to predict cases with a setting, and read the record."""
    weights = tmp_path / "model.pt"
    weights.touch()
    out = tmp_path / "out"

    def predict(names, mirror, overwrite=False, failing="", meanwhile=None):
        images = [{"case": name, "image": str(tmp_path / f"{name}.nii.gz")} for name in names]
        written = Replacement(str(out), images, str(weights), {"mirror": mirror}, overwrite)
        record_inference(str(out), images, str(weights), {"mirror": mirror}, overwrite)
        if meanwhile is not None:  # another share of the folder
            record_inference(str(out), images, str(weights), {"mirror": meanwhile}, overwrite)
        for name in names:
            if name not in failing:
                with replacing(out / f"{name}_seg.nii.gz") as partial:
                    partial.write_text(str(mirror))
                written(name)
        record = json.loads((out / "inference.json").read_text())
        values = [g["settings"]["mirror"] for g in (record, *record["earlier"])]
        cases = [{case["case"] for case in g["cases"]} for g in (record, *record["earlier"])]
        return dict(zip([tuple(value) if isinstance(value, list) else value for value in values], cases))

    return predict


def test_maps_that_are_not_made_again_keep_their_record_and_settings(predicted):
    assert predicted("abc", False) == {False: {"a", "b", "c"}}
    assert predicted("a", True, overwrite=True) == {True: {"a"}, False: {"b", "c"}}
    with pytest.raises(UserError, match=r"made with other mirror \(False there, True here\): give"):
        predicted("a", True)
    assert predicted("b", False, overwrite=True) == {True: {"a"}, False: {"b", "c"}}
    assert predicted("abc", True, overwrite=True) == {True: {"a", "b", "c"}}


def test_a_patient_that_fails_keeps_its_files_and_the_settings_that_made_them(predicted, tmp_path):
    predicted("abc", False)
    for ending in ("entropy.nii.gz", "seg.dcm"):
        (tmp_path / "out" / f"a_{ending}").touch()
        (tmp_path / "out" / f"b_{ending}").touch()
    assert predicted("abc", True, overwrite=True, failing="b") == {True: {"a", "c"}, False: {"b"}}
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"inference.json"}
    assert names == {"a_seg.nii.gz", "b_seg.nii.gz", "c_seg.nii.gz", "b_entropy.nii.gz", "b_seg.dcm"}
    assert predicted("b", True, overwrite=True) == {True: {"a", "b", "c"}}


def test_a_label_map_that_was_removed_takes_its_other_files_along_when_it_is_made_again(predicted, tmp_path):
    predicted("ab", False)
    for name in ("a_entropy.nii.gz", "a_seg.dcm", "b_entropy.nii.gz"):
        (tmp_path / "out" / name).touch()
    (tmp_path / "out" / "a_seg.nii.gz").unlink()
    predicted("ab", False, failing="ab")
    assert (tmp_path / "out" / "a_entropy.nii.gz").is_file()
    predicted("ab", False)  # here b gets files that it lacked
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"inference.json", "a_seg.nii.gz", "b_seg.nii.gz", "b_entropy.nii.gz"}


def test_shards_that_overwrite_with_other_settings_record_their_own(predicted):
    predicted("ab", False)
    assert predicted("a", True, overwrite=True, meanwhile="other") == {"other": set(), False: {"b"}, True: {"a"}}


def test_an_entry_without_a_case_is_replaced_too(predicted, tmp_path):
    predicted("a", False)
    record = json.loads((tmp_path / "out" / "inference.json").read_text())
    del record["cases"][0]["case"]
    (tmp_path / "out" / "inference.json").write_text(json.dumps(record))
    assert predicted("a", True, overwrite=True) == {True: {"a"}}


def test_settings_are_compared_by_value(predicted):
    predicted("ab", [2, 2, 2])
    assert predicted("b", (2.0, 2.0, 2)) == {(2, 2, 2): {"a", "b"}}
    with pytest.raises(UserError, match="mirror"):
        predicted("b", (2.0, 2.0, 3))


def test_the_record_of_a_folder_that_was_moved_still_counts(predicted, tmp_path):
    predicted("ab", False)
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match="mirror"):
        predicted("b", True)
    assert predicted("b", False) == {False: {"a", "b"}}


def test_a_link_in_the_place_of_a_map_is_not_written_through(tmp_path, cohort_source):
    victim, out = tmp_path / "victim", tmp_path / "out"
    out.mkdir()
    victim.write_text("kept")
    (out / "phantom_0002_seg.nii.gz").symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="phantom_0002_seg"):
            find_work(str(cohort_source / "data"), output_dir=str(out), overwrite=overwrite)
    with replacing(out / "phantom_0002_seg.nii.gz") as partial:
        partial.write_text("new")
    assert victim.read_text() == "kept" and not (out / "phantom_0002_seg.nii.gz").is_symlink()


@pytest.mark.slow
def test_networks_of_several_sequences_predict_from_folders_and_lists(cohort, command, tmp_path):
    """A teacher's probabilities are written by the command that writes the student's."""
    torch.manual_seed(0)
    torch.save(ResUNet(2, 4, (8, 16, 32, 64), deep_supervision=1).state_dict(), tmp_path / "two.pt")
    options = [
        "--student_sequence",
        "[flair,t2]",
        "--network_def::in_channels",
        "2",
        "--ckpt_path",
        tmp_path / "two.pt",
    ]
    options += ["--mirror", "False", "--spacing", "$None", "--dataset_dir", cohort / "data"]
    for name, more in {"folder": [], "list": ["--datalist", cohort / "datalist.json"]}.items():
        result = command("scripts", "predict", *options, *more, "--output_dir", tmp_path / name)
        assert result.returncode == 0, result.stderr
    for index in range(6):
        maps = [nib.load(tmp_path / name / f"phantom_{index:04d}_seg.nii.gz") for name in ("folder", "list")]
        assert np.array_equal(np.asarray(maps[0].dataobj), np.asarray(maps[1].dataobj))
    flair = cohort / "data" / "phantom_0002" / "phantom_0002_t2.nii.gz"
    image = nib.load(flair)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), flair)
    result = command("scripts", "predict", *options, "--output_dir", tmp_path / "fault")
    assert result.returncode == 1 and "phantom_0002_t2.nii.gz: shape" in result.stderr
    flair.unlink()
    result = command("scripts", "predict", *options, "--output_dir", tmp_path / "missing")
    assert result.returncode == 0 and "flair and t2, which the network sees: phantom_0002." in result.stdout
    assert len(list((tmp_path / "missing").glob("*_seg.nii.gz"))) == 5
