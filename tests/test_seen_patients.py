"""Patients of a training are found in a later edition: by name, by voxels, by the organisers' mapping."""

import json
import shutil

import pytest

from scripts.data.checks import CaseReport
from scripts.data.make_datalist import make_datalist
from scripts.data.seen_patients import find_overlap, read_mapping, seen_cases, unite_copies, warn_of_seen_patients
from scripts.data.training_cases import find_faults, load_cases
from scripts.errors import UserError
from scripts.folders.case import Case


@pytest.fixture
def editions(cohort, tmp_path):
    """A training list of four patients, and a later edition with two of them renamed (and changed) and two new."""
    make_datalist(str(cohort / "data"), str(tmp_path / "train.json"), folds=2)
    document = json.loads((tmp_path / "train.json").read_text())
    document["training"] = document["training"][:4]
    (tmp_path / "train.json").write_text(json.dumps(document))
    later = tmp_path / "later"
    for old, new in {2: "BraTS-GLI-00007-000", 3: "BraTS-GLI-00009-001", 4: "phantom_0004", 5: "phantom_0005"}.items():
        name = f"phantom_000{old}"
        for path in sorted((cohort / "data" / name).iterdir()):
            target = later / new / path.name.replace(name, new)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path


def forget_voxels(editions):
    """Editions differ in their processing, so checksums do not tell."""
    document = json.loads((editions / "train.json").read_text())
    for entry in document["training"]:
        entry["checksum"] += 1
    (editions / "train.json").write_text(json.dumps(document))


def make(editions, **options):
    make_datalist(
        str(editions / "later"),
        str(editions / "test.json"),
        folds=1,
        trained_on=str(editions / "train.json"),
        **options,
    )
    return {entry["case"] for entry in json.loads((editions / "test.json").read_text())["training"]}


def test_folds_are_made_without_patients_seen_in_training(editions):
    """Two of four are left: four folds would have held seen patients alone, and be empty."""
    options = {"strict": False, "trained_on": str(editions / "train.json")}
    with pytest.raises(UserError, match="folds is 4, expected 1 to 2"):
        make_datalist(str(editions / "later"), str(editions / "test.json"), folds=4, **options)
    make_datalist(str(editions / "later"), str(editions / "test.json"), folds=2, **options)
    entries = json.loads((editions / "test.json").read_text())["training"]
    assert sorted(entry["fold"] for entry in entries) == [0, 1]


MAPPING = """Grade,BraTS_2021,BraTS_2023,Note
HGG,phantom_0002,BraTS-GLI-00007-000,NA
HGG,phantom_0003,BraTS-GLI-00009-000,NA
LGG,NA,phantom_0004,NA
"""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_patients_seen_in_training_are_found_by_the_organisers_mapping(editions, delimiter):
    forget_voxels(editions)
    (editions / "mapping.csv").write_text(MAPPING.replace(",", delimiter))
    with pytest.raises(UserError, match=r"(?s)00007-000 .*phantom_0002.*00009-001 .*phantom_0003"):
        make(editions, mapping=str(editions / "mapping.csv"))
    assert not (editions / "test.json").exists()
    assert make(editions, mapping=str(editions / "mapping.csv"), strict=False) == {"phantom_0004", "phantom_0005"}


def test_a_training_without_patients_is_named(editions):
    document = json.loads((editions / "train.json").read_text())
    (editions / "train.json").write_text(json.dumps(document | {"training": [], "testing": document["training"]}))
    with pytest.raises(UserError, match="lists no patient under training"):
        make(editions)


def test_without_a_mapping_the_same_voxels_tell(editions):
    assert make(editions, strict=False) == {"phantom_0004", "phantom_0005"}
    forget_voxels(editions)
    assert len(make(editions)) == 4


def test_the_test_set_is_one_fold_for_evaluation_alone(editions):
    make(editions, strict=False)
    options = {"datalist": str(editions / "test.json"), "dataset_dir": str(editions / "later")}
    assert len(load_cases(**options, training=False)["validation"]) == 2
    with pytest.raises(UserError, match="fold is 0, and all labelled patients"):
        load_cases(**options)


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b\nx,y\n", r"mapping .*mapping\.csv .*the test set .*trained_on"),
        ("a\nphantom_0004\n", r"mapping .*mapping\.csv .*trained_on"),
        (b"\xff\xfe\x00", r"mapping .*mapping\.csv"),
    ],
)
def test_a_mapping_of_other_editions_is_named(editions, content, message):
    path = editions / "mapping.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        make(editions, mapping=str(path))


def test_a_mapping_needs_the_datalist_of_the_training(editions):
    with pytest.raises(UserError, match="mapping .*trained_on"):
        make_datalist(str(editions / "later"), str(editions / "x.json"), mapping="m.csv")


def test_names_of_one_row_are_of_one_patient(tmp_path):
    (tmp_path / "m.csv").write_text("\ufeffa,b,c\nHGG,old_1,new_1\nHGG,old_2,new_2\n")
    same = read_mapping(str(tmp_path / "m.csv"), ["new_1", "new_2", "new_3"], ["old_2", "old_1"])
    assert same["new_1"] == {"old_1", "new_1"} and same["old_2"] == {"old_2", "new_2"} and "HGG" not in same


@pytest.mark.parametrize("record, key", [("training.json", "cases"), ("docs/trained_on.json", "training")])
def test_weights_that_saw_the_patients_to_be_scored_are_warned_of(tmp_path, caplog, record, key):
    (tmp_path / "docs").mkdir()
    (tmp_path / record).write_text(json.dumps({key: [{"case": "a"}, {"case": "b"}]}))
    weights = str(tmp_path / "models" / "model.pt")
    warn_of_seen_patients(weights, [{"case": "c"}])
    assert not caplog.records
    warn_of_seen_patients([weights], [{"case": "b"}, {"case": "c"}])
    (warning,) = caplog.messages
    assert weights in warning and str(tmp_path / record) in warning and "1 of the 2" in warning


@pytest.mark.parametrize("text", ["", "null", "[]", '{"cases": ["a"]}', '{"training": [{"name": "a"}]}'])
def test_a_record_of_the_weights_in_another_form_is_named(text, tmp_path):
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(UserError, match=r"training\.json"):
        warn_of_seen_patients(str(tmp_path / "models" / "model.pt"), [{"case": "a"}])


@pytest.mark.parametrize(
    "document", [{}, {"training": None}, {"training": ["a"]}, {"training": [{"image": ["a"]}]}, []]
)
def test_the_list_of_a_training_in_another_form_is_named(document, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"trained_on .*train\.json"):
        find_overlap([("a", "a", 1)], str(tmp_path / "train.json"))


def test_another_scan_of_a_training_patient_is_seen_by_the_datalists_patient():
    trained = {"training": [{"case": "A01-1", "patient": "A01"}]}
    scans = [{"case": "A01-2", "patient": "A01"}, {"case": "A02-1", "patient": "A02"}, {"case": "A01-1"}]
    assert seen_cases(trained, scans) == ["A01-1", "A01-2"]
    older = {"cases": [{"case": "X_1"}]}  # a record without patients
    assert seen_cases(older, [{"case": "X_1", "patient": "X"}]) == ["X_1"]


def test_examinations_in_two_folds_are_found_by_name_where_the_datalist_names_no_patient():
    entries = [{"case": f"BraTS-GLI-00005-00{time}", "image": "x.nii.gz", "fold": time} for time in (0, 1)]
    reports = [CaseReport(checksum=number) for number in (1, 2)]
    (fault,) = find_faults(entries, reports)
    assert "duplicate patient" in fault.fault and fault.case == "BraTS-GLI-00005-001"


def test_patients_of_a_training_are_known_by_name_where_its_datalist_names_none(tmp_path):
    entry = {"case": "BraTS-GLI-00005-000", "image": "x.nii.gz", "fold": 0}
    (tmp_path / "train.json").write_text(json.dumps({"training": [entry]}))
    (fault,) = find_overlap([("BraTS-GLI-00005-001", "BraTS-GLI-00005", 7)], str(tmp_path / "train.json"))
    assert "BraTS-GLI-00005-000" in fault.fault


def test_every_examination_of_a_copied_patient_moves_with_the_copy():
    cases = [Case("B_2"), Case("A_1"), Case("B_1")]
    for case, patient in zip(cases, "BAB"):
        case.patient = patient
    checksums = {"B_2": 5, "A_1": 7, "B_1": 7}
    unite_copies(cases, {name: CaseReport(checksum=number) for name, number in checksums.items()})
    assert {case.patient for case in cases} == {"A"}
