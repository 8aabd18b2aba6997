"""Files that were checked once are read again only if they, or what is asked of them, changed."""

import json
import os

import nibabel as nib
import numpy as np
import pytest

from conftest import seeing
from scripts.data import checked_files, checks
from scripts.data.checks import check_case
from scripts.data.make_datalist import make_datalist
from scripts.data.training_cases import load_cases
from scripts.errors import UserError


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that checks read."""
    names, read = [], checked_files.read_volume

    def counted(role, files, channels):
        names.append(files[role].name)
        return read(role, files, channels)

    monkeypatch.setattr(checked_files, "read_volume", counted)
    return names


@pytest.fixture
def start(cohort, reads):
    """Check as a command does at its start: the cases, and the files that were read for it, sorted."""

    def run(**options):
        reads.clear()
        cases = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), **options)
        return cases, sorted(reads)

    (cohort / "datalist.checked.json").unlink(missing_ok=True)
    return run


def spoil(path, seconds=0):
    """Other bytes, as many of them, changed so much later."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + int(seconds * 1e9)))


def image(cohort, case=0, role="t1ce"):
    return cohort / "data" / f"phantom_{case:04d}" / f"phantom_{case:04d}_{role}.nii.gz"


def test_files_are_read_once_for_training_resuming_and_evaluating(start, cohort):
    first, read = start(teachers=seeing(t=["flair"]))
    assert len(read) == 4 * 3 + 2 * 2 + 6  # T1ce also for each label, which must lie in its brain
    for path in (cohort / "data").glob("*/*.nii.gz"):
        spoil(path)  # what is read now is unreadable
    assert start(teachers=seeing(t=["flair"])) == (first, [])
    assert start(training=False)[1] == []
    assert start(fold=1)[1] == []  # student and label alone


@pytest.mark.parametrize("change", [{"seconds": 1e-6}, {"seconds": -5}])
def test_a_file_of_another_time_is_read_again(change, start, cohort):
    start()
    spoil(image(cohort), **change)
    with pytest.raises(UserError, match="phantom_0000_t1ce"):
        start()


def test_a_file_of_another_size_is_read_again(start, cohort):
    start()
    path = image(cohort)
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(start()[1]) == {path.name, image(cohort, role="seg").name}  # the label is compared with it


def test_what_was_not_asked_before_is_read(start):
    start()
    assert {name.split("_")[2] for name in start(student_sequence="flair")[1]} == {"flair.nii.gz"}
    assert len(start(teachers=seeing(t=["t2"]))[1]) == 4


def test_faults_are_reported_again_without_reading(start, cohort):
    path = image(cohort, 1)
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 32), np.int16), nib.load(path).affine), path)
    label = image(cohort, 2, "seg")
    nib.save(nib.Nifti1Image(np.full((32, 32, 32), 9, np.uint8), nib.load(label).affine), label)
    shifted = image(cohort, 3, "seg")
    moved = nib.load(shifted)
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), moved.affine + np.eye(4)[:, [3, 3, 3, 0]] * 3), shifted)
    texts = []
    for _ in range(2):
        with pytest.raises(UserError) as error:
            start()
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert all(word in texts[0] for word in (path.name, "empty", label.name, "[9]", shifted.name, "affine"))
    assert start(strict=False)[1] == []


def test_an_unreadable_file_is_never_taken_for_checked(start, cohort):
    path = image(cohort)
    path.write_bytes(b"no volume")
    for _ in range(2):
        cases, read = start(strict=False)
        assert "phantom_0000" not in str(cases)
    assert read == [path.name]


def test_too_little_memory_stops_with_a_sentence_and_leaves_no_patient_out(start, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(checked_files, "read_volume", fail)
    with pytest.raises(UserError, match=r"phantom_\d+_\w+\.nii\.gz needs more memory than is free: "):
        start(strict=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', "null", "deep"])
def test_a_record_that_cannot_be_read_is_made_again(content, start, cohort):
    first, read = start()
    record = cohort / "datalist.checked.json"
    document = json.loads(record.read_text())
    spoilt = {**document, "files": {key: [*value[:2], [1]] for key, value in document["files"].items()}}
    record.write_text(json.dumps(spoilt) if content == "deep" else content)
    assert start() == (first, read)
    assert json.loads(record.read_text()) == document


@pytest.mark.parametrize("document", ['{"training": []}', "[1]"])
def test_another_document_of_the_records_name_stays(document, cohort):
    other = cohort / "new.checked.json"
    other.write_text(document)
    for _ in range(2):
        make_datalist(str(cohort / "data"), str(cohort / "new.json"), folds=3)
    load_cases(str(cohort / "new.json"), str(cohort / "data"))
    assert other.read_text() == document


def test_other_checks_read_again(start, monkeypatch):
    _, read = start()
    monkeypatch.setattr(checked_files, "checks", lambda: "others")
    assert start()[1] == read
    assert start()[1] == []


def test_an_interrupted_check_keeps_what_it_read(start, cohort, reads, monkeypatch):
    def interrupted(role, files, channels, read=checked_files.read_volume):
        if "0004" in files[role].name:
            raise KeyboardInterrupt
        return read(role, files, channels)

    with monkeypatch.context() as patch:
        patch.setattr(checked_files, "read_volume", interrupted)
        patch.setattr(checks, "cores", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            start()
    assert {"phantom_0004_t1ce.nii.gz"} <= set(start()[1]) and len(reads) < 12


def test_nothing_is_written_to_the_patients_folder_nor_where_it_cannot_be(cohort, start, small_files):
    inside = cohort / "data" / "datalist.json"
    inside.write_bytes((cohort / "datalist.json").read_bytes())
    before = sorted((cohort / "data").rglob("*"))
    load_cases(str(inside), str(cohort / "data"))
    link = cohort / "linked"
    link.symlink_to(cohort / "data")
    load_cases(str(link / "datalist.json"), str(cohort / "data"))
    assert sorted((cohort / "data").rglob("*")) == before
    with small_files(100):
        assert len(start()[0]["training"]) == 4
    assert not list(cohort.glob("*checked*")) and not list(cohort.glob(".part*"))


def test_a_datalist_that_is_made_reads_for_its_first_training(cohort, reads):
    make_datalist(str(cohort / "data"), str(cohort / "new.json"), folds=3)
    assert len(reads) == 30 + 6  # T1ce also for each label
    for _ in range(2):
        load_cases(str(cohort / "new.json"), str(cohort / "data"), teachers=seeing(t=["flair", "t1", "t2"]))
    assert len(reads) == 30 + 6


def test_the_checksum_of_a_4d_file_is_of_the_students_channel(tmp_path):
    rng = np.random.default_rng(0)
    volumes = [np.pad(rng.integers(1, 900, (20, 20, 20)).astype(np.int16), 6) for _ in range(4)]
    for name, voxels in {"all": np.stack(volumes, -1), "alone": volumes[2]}.items():
        nib.save(nib.Nifti1Image(voxels, np.diag([5, 5, 5, 1])), tmp_path / f"{name}.nii.gz")
    channels = {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    four = dict.fromkeys(channels, tmp_path / "all.nii.gz")
    report = check_case("p", four, ["t1ce", "flair"], set(), channels)
    alone = check_case("p", {"t1ce": tmp_path / "alone.nii.gz"}, ["t1ce"], set())
    assert not report.faults and not alone.faults
    assert report.checksum == alone.checksum != 0
    assert check_case("p", four, ["t2"], set(), channels).checksum != report.checksum


def test_a_label_outside_of_the_brain_is_a_fault_until_its_image_is_the_right_one(start, cohort):
    path, kept = image(cohort), image(cohort).read_bytes()
    scan = nib.load(path)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(scan.dataobj), 16, axis=2), scan.affine), path)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"phantom_0000_seg\.nii\.gz +\d+% of the tumour lies where phantom_0000_t1ce"
        ):
            start()
    path.write_bytes(kept)
    start()
