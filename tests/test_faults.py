"""A file that the system does not let us look at is named with what the system says, not by a traceback."""

import os
import re

import pytest

from scripts.data.entries import check_files_are_there
from scripts.errors import UserError
from scripts.faults import fault_of
from scripts.folders.case import stamp
from scripts.folders.cases import find_cases, find_images
from scripts.report.run_folder import cases_of_run

CLOSED = "cannot be read (File name too long)"  # as of a folder that is closed: stat raises an error


@pytest.fixture
def closed(tmp_path):
    (tmp_path / "there.nii.gz").touch()
    return tmp_path / f"{'n' * 300}.nii.gz"


def test_a_fault_says_whether_a_file_is_gone_or_cannot_be_read(closed, tmp_path):
    paths = (closed, tmp_path / "gone", tmp_path / "there.nii.gz" / "below", tmp_path / "there.nii.gz", tmp_path)
    assert [fault_of(path) for path in paths] == [CLOSED, "does not exist", "does not exist", "", ""]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads closed folders")
def test_a_closed_folder_is_such_a_case(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert fault_of(tmp_path / "closed" / "a") == "cannot be read (Permission denied)"


def test_an_image_that_cannot_be_looked_at_has_no_stamp(closed, tmp_path):
    size = (tmp_path / "there.nii.gz").stat().st_size
    assert stamp({"image": str(closed)}) == {}
    assert stamp({"image": [str(closed), str(tmp_path / "there.nii.gz")]})["size"] == size


def test_a_data_set_that_cannot_be_looked_at_is_named(closed, tmp_path):
    for find in (find_cases, find_images):
        with pytest.raises(UserError, match=rf"dataset_dir .*{re.escape(CLOSED)}"):
            find(closed)
    for folder, said in ((closed, "dataset_dir is '.*', which "), (tmp_path, "holds none of the datalist's 1 files.*")):
        with pytest.raises(UserError, match=said + ".*cannot be read"):
            check_files_are_there([{"image": closed.name, "case": "a"}], str(folder))
    check_files_are_there([{"image": closed.name, "case": "a"}, {"image": "there.nii.gz", "case": "b"}], str(tmp_path))


def test_a_link_to_a_place_that_cannot_be_looked_at_is_named(closed, tmp_path):
    (tmp_path / "a_t1ce.nii.gz").symlink_to(closed)
    with pytest.raises(UserError, match=r"a_t1ce\.nii\.gz: " + re.escape(CLOSED)):
        find_images(tmp_path)


def test_a_patient_of_a_run_that_cannot_be_looked_at_is_left_out_with_a_note(closed, tmp_path):
    there = str(tmp_path / "there.nii.gz")
    images = {"a": there, "b": str(closed), "c": str(tmp_path / "gone")}
    record = {"cases": [{"case": name, "image": path, "prediction": there} for name, path in images.items()]}
    notes = []
    assert list(cases_of_run("r", record, notes)) == ["a"]
    assert notes == [f"Left out 2 of 3 patients, whose image {CLOSED} or does not exist: b, c."]
    with pytest.raises(
        UserError, match=r"every image that its JSON file names does not exist, such as .*gone: restore"
    ):
        cases_of_run("r", {"cases": record["cases"][2:]}, [])
