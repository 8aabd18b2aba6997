"""Making datalists: their form, editions, faults of every kind."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from conftest import real_data, seeing
from scripts.data.entries import datalist_images
from scripts.data.make_datalist import make_datalist
from scripts.data.training_cases import label_values, load_cases
from scripts.errors import UserError
from scripts.labels import SEQUENCES


def rewrite(path, change, dtype=None, shift=0.0):
    """Replace a NIfTI file by ``change(voxels)``, moved by ``shift`` mm."""
    image = nib.load(path)
    voxels = change(np.asarray(image.dataobj).copy())
    affine = image.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(voxels if dtype is None else voxels.astype(dtype), affine), path)


def scan(cohort, case, role):
    name = f"phantom_{case:04d}"
    return cohort / "data" / name / f"{name}_{role}.nii.gz"


def make(cohort, **options):
    make_datalist(str(cohort / "data"), str(cohort / "new.json"), **{"folds": 2, **options})
    return json.loads((cohort / "new.json").read_text())


def test_a_folder_cannot_be_the_output(cohort):
    before = sorted(cohort.parent.rglob("*"))
    with pytest.raises(UserError, match="output .*json"):
        make_datalist(str(cohort / "data"), str(cohort), folds=2)
    assert sorted(cohort.parent.rglob("*")) == before


def test_the_form_is_decathlons_with_t1ce_as_image(cohort):
    document = make(cohort)
    items = load_decathlon_datalist(str(cohort / "new.json"), data_list_key="training", base_dir=str(cohort / "data"))
    assert len(items) == 6
    assert all(Path(item["image"]).name.endswith("_t1ce.nii.gz") and Path(item["label"]).is_file() for item in items)
    assert {item["fold"] for item in items} == {0, 1}
    assert document["labels"] == {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}
    assert document["testing"] == []


def test_a_split_file_gives_fold_0_and_1(cohort, caplog):
    split = {"training": ["phantom_0000", "phantom_0002"], "validation": ["phantom_0005"]}
    (cohort / "split.json").write_text(json.dumps(split))
    document = make(cohort, split=str(cohort / "split.json"), folds=None)
    folds = {entry["case"]: entry["fold"] for entry in document["training"]}
    assert folds == {"phantom_0000": 1, "phantom_0002": 1, "phantom_0005": 0}
    assert "phantom_0001, phantom_0003, phantom_0004" in caplog.text


def test_folds_of_a_split_are_of_its_training_list_alone(cohort):
    names = [f"phantom_{i:04d}" for i in range(6)]
    (cohort / "split.json").write_text(json.dumps({"training": names[:4], "validation": names[4:]}))
    document = make(cohort, split=str(cohort / "split.json"), folds=2)
    assert {entry["case"] for entry in document["training"]} == set(names[:4])
    assert sorted(entry["fold"] for entry in document["training"]) == [0, 0, 1, 1]
    with pytest.raises(UserError, match="folds is 0, .* 4"):
        make(cohort, split=str(cohort / "split.json"), folds=0)


def test_et_is_detected_from_the_data(cohort):
    assert label_values(str(cohort / "datalist.json")) == [0, 1, 2, 4]
    for case in range(6):
        rewrite(scan(cohort, case, "seg"), lambda label: np.where(label == 4, 3, label), np.uint8)
    make(cohort)
    assert label_values(str(cohort / "new.json")) == [0, 1, 2, 3]


def test_a_case_of_another_edition_is_a_fault(cohort):
    rewrite(scan(cohort, 1, "seg"), lambda label: np.where(label == 4, 3, label), np.uint8)
    with pytest.raises(
        UserError, match=r"phantom_0001 +phantom_0001_seg.* holds 3, most of the dataset 4: nothing tells"
    ):
        make(cohort)


def test_cases_without_labels_are_for_testing(cohort):
    (cohort / "data" / "more").mkdir()
    for case in (4, 5):
        scan(cohort, case, "seg").unlink()
        folder = scan(cohort, case, "seg").parent
        folder.rename(cohort / "data" / "more" / folder.name)
    document = make(cohort)
    assert [entry["case"] for entry in document["testing"]] == ["phantom_0004", "phantom_0005"]
    assert all("label" not in entry and "fold" not in entry for entry in document["testing"])


def test_t1ce_alone_is_enough_unless_more_is_asked_for(cohort):
    for path in cohort.rglob("*.nii.gz"):
        if not path.name.endswith(("_t1ce.nii.gz", "_seg.nii.gz")):
            path.unlink()
    with pytest.raises(UserError, match="missing flair"):
        make(cohort, sequences=["t1ce", "flair"])
    assert [{*entry} & {"image", "flair", "t1", "t2"} for entry in make(cohort)["training"]] == [{"image"}] * 6
    (cohort / "data" / "phantom_0003" / "phantom_0003_t1ce.nii.gz").unlink()
    with pytest.raises(UserError, match="missing t1ce"):
        make(cohort, sequences="t1ce")
    with pytest.raises(UserError, match=r"sequences are \['flair'\]"):
        make(cohort, sequences="flair")


def test_msd_keeps_its_channel_and_label_order(tmp_path):
    for i in range(2):
        image = np.random.default_rng(i).uniform(1, 9, (4, 4, 4, 4))
        image[3] = 0  # background
        label = np.zeros((4, 4, 4), np.uint8)
        label[0], label[1], label[2] = 1, 2, 3
        label[3, 0, 0] = i  # no copy of the other one
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([20, 20, 20, 1])), tmp_path / folder / f"BRATS_{i:03d}.nii.gz")
    make_datalist(str(tmp_path), str(tmp_path / "list.json"), folds=2)
    assert label_values(str(tmp_path / "list.json")) == [0, 2, 1, 3]
    parts = load_cases(str(tmp_path / "list.json"), str(tmp_path), teachers=seeing(both=["flair", "t2"]))
    assert parts["training"][0]["channels"] == {"image": [2], "flair": 0, "t2": 3, "volumes": 4}


# every kind of fault: the file of case 2, what is done to it, and the word that names the fault
FAULTS = {
    "missing": ("t2", Path.unlink, "missing t2"),
    "truncated": ("t1", lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated"),
    "text": ("t1ce", lambda path: path.write_text("no image"), "unreadable"),
    "shape": ("flair", lambda path: rewrite(path, lambda v: v[:-1]), "shape"),
    "4-D": ("t2", lambda path: rewrite(path, lambda v: np.stack([v, v], -1)), "3-D"),
    "2-D": ("t2", lambda path: rewrite(path, lambda v: v[..., 0]), "3-D"),
    "non-finite": ("t1", lambda path: rewrite(path, lambda v: np.where(v > 0, np.nan, v)), "non-finite"),
    "empty": ("t1ce", lambda path: rewrite(path, np.zeros_like), "empty"),
    "negative": ("t1ce", lambda path: rewrite(path, lambda v: -abs(v)), "empty"),
    "label": ("seg", lambda path: rewrite(path, lambda v: np.where(v == 1, 9, v)), r"\[9\]"),
    "affine": ("t2", lambda path: rewrite(path, np.copy, shift=1.0), "affine"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_found_before_training_and_when_the_datalist_is_made(cohort, kind, caplog):
    role, spoil, word = FAULTS[kind]
    spoil(scan(cohort, 2, role))
    file = "(-|phantom_0002_.*)" if word.startswith("missing") else rf"phantom_0002_{role}\.nii\.gz"
    row = f"phantom_0002 +{file} .*{word}"
    with pytest.raises(UserError, match=row):
        make(cohort, sequences=SEQUENCES)
    assert not (cohort / "new.json").exists()
    datalist = cohort / "datalist.json"
    entries = json.loads(datalist.read_text())["training"]
    fold = next(entry["fold"] for entry in entries if entry["fold"] != entries[2]["fold"])
    options = {"dataset_dir": str(cohort / "data"), "fold": fold, "teachers": seeing(all=["flair", "t2", "t1"])}
    with pytest.raises(UserError, match=row):
        load_cases(str(datalist), **options)
    parts = load_cases(str(datalist), **options, strict=False)
    names = {entry["case"] for part in parts.values() for entry in part}
    assert names == {entry["case"] for entry in entries} - {"phantom_0002"}
    assert "phantom_0002" in caplog.text


def test_patients_are_listed_with_what_they_have(cohort, capsys):
    for case, roles in {0: ["seg"], 1: ["flair"], 2: ["flair", "t1", "t2"], 3: ["seg", "t1"]}.items():
        for role in roles:
            scan(cohort, case, role).unlink()
    entries = {entry["case"]: entry for entry in make(cohort)["training"]}
    table = capsys.readouterr().out
    assert [name for name, entry in entries.items() if "fold" not in entry] == ["phantom_0000", "phantom_0003"]
    for what, number in {
        "unlabelled, 4 sequences": 1,
        "labelled, T1 + T1ce + T2": 1,
        "labelled, T1ce alone": 1,
        "unlabelled, FLAIR + T1ce + T2": 1,
        "labelled, 4 sequences": 2,
    }.items():
        assert re.search(rf"{re.escape(what)} +{number} ", table), what
    assert len(make(cohort, unlabelled="testing")["testing"]) == 2
    with pytest.raises(UserError, match="unlabelled is 'train'"):
        make(cohort, unlabelled="train")


def remove_labels(folder):
    for path in folder.rglob("*_seg.nii.gz"):
        path.unlink()


@pytest.mark.parametrize("part", ["training", "testing"])
def test_a_folder_without_labels_is_listed_if_asked_for_and_can_be_predicted(cohort, part, caplog):
    remove_labels(cohort)
    with pytest.raises(UserError, match="6 cases, no label.* --unlabelled testing .* below one folder"):
        make(cohort)
    assert not (cohort / "new.json").exists()
    document = make(cohort, unlabelled=part, folds=None)
    assert ("train also needs labelled patients" in caplog.text) == (part == "training")
    other = {"training": "testing", "testing": "training"}[part]
    assert [len(document[part]), document[other]] == [6, []]
    assert all("fold" not in entry and "label" not in entry for entry in document[part])
    assert len(datalist_images(str(cohort / "new.json"), str(cohort / "data"))) == 6
    with pytest.raises(UserError, match="no labelled case .* two labelled patients: .* below one folder"):
        load_cases(str(cohort / "new.json"), str(cohort / "data"), teachers=seeing(flair=["flair"]))


def test_values_of_a_folder_without_labels_are_as_given(cohort):
    remove_labels(cohort)
    make(cohort, unlabelled="training", label_values="brats2023")
    assert label_values(str(cohort / "new.json")) == [0, 1, 2, 3]


def test_a_labelled_and_an_unlabelled_folder_are_joined_by_links(cohort):
    """As docs/gaps.md says: the unlabelled ones are learnt from, the labelled ones have folds."""
    (cohort / "more").mkdir()
    for case in (4, 5):
        folder = scan(cohort, case, "seg").parent
        remove_labels(folder)
        folder.rename(cohort / "more" / folder.name)
    (cohort / "joined").mkdir()
    for name in ("data", "more"):
        (cohort / "joined" / name).symlink_to(cohort / name)
    output = str(cohort / "joined.json")
    make_datalist(str(cohort / "joined"), output, folds=2, unlabelled="training")
    cases = load_cases(output, str(cohort / "joined"), teachers=seeing(flair=["flair"]))
    assert sorted(e["case"] for e in cases["training"] if "label" not in e) == ["phantom_0004", "phantom_0005"]
    assert len([entry for entry in cases["training"] if "label" in entry]) == 2


def test_one_fold_alone_names_the_way_out(cohort):
    make(cohort, folds=1)
    options = {"datalist": str(cohort / "new.json"), "dataset_dir": str(cohort / "data")}
    with pytest.raises(UserError, match=r"fold is 0, .* none is left to train on: .*--folds .*--fold '\$None'"):
        load_cases(**options)
    assert len(load_cases(**options, training=False)["validation"]) == 6
    assert len(load_cases(**options, fold=None)["training"]) == 6


def test_an_unlabelled_examination_is_in_the_fold_of_its_patient(cohort):
    for case, name in {4: "patient_1", 5: "patient_2"}.items():
        for path in list(scan(cohort, case, "seg").parent.iterdir()):
            target = cohort / "data" / name / path.name.replace(f"phantom_{case:04d}", name)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        (cohort / "data" / f"phantom_{case:04d}").rmdir()
    (cohort / "data" / "patient_2" / "patient_2_seg.nii.gz").unlink()
    entries = {
        entry["case"]: entry for entry in make(cohort, patient="(patient|phantom_.*?)(?:_[12])?", folds=2)["training"]
    }
    assert "label" not in entries["patient_2"]
    assert entries["patient_2"]["fold"] == entries["patient_1"]["fold"]


def test_all_faults_are_reported_together(cohort):
    scan(cohort, 0, "t2").unlink()
    scan(cohort, 4, "seg").write_bytes(b"")
    with pytest.raises(UserError, match="(?s)phantom_0000.*phantom_0004"):
        make(cohort, sequences=SEQUENCES)
    kept = [entry["case"] for entry in make(cohort, sequences=SEQUENCES, strict=False)["training"]]
    assert kept == ["phantom_0001", "phantom_0002", "phantom_0003", "phantom_0005"]


@pytest.mark.parametrize("name, options", [
    ("phantom_0004_tumour.nii.gz", {"label": "*_tumour.nii.gz", "t1ce": "*_post.nii.gz"}),
    ("scan_seg.nii.gz", {}),
])  # fmt: skip
def test_a_label_that_cannot_be_read_leaves_its_patient_out_whatever_names_it(name, options, cohort):
    for path in list((cohort / "data").rglob("*_*.nii.gz")):
        role = path.name.removesuffix(".nii.gz").rpartition("_")[2]
        own = {"seg": "tumour", "t1ce": "post"}.get(role, role)
        path.rename(path.with_name(f"{path.parent.name}_{own}.nii.gz" if options else f"scan_{role}.nii.gz"))
    label = cohort / "data" / "phantom_0004" / name
    assert label.is_file()
    label.unlink()
    label.symlink_to("/annex/objects/nowhere")  # as git-annex leaves it
    kept = [entry["case"] for entry in make(cohort, strict=False, **options)["training"]]
    assert kept == [f"phantom_000{k}" for k in (0, 1, 2, 3, 5)]


def test_a_patient_in_two_folds_is_found_by_name_and_by_content(cohort):
    document = json.loads((cohort / "datalist.json").read_text())
    by_fold = {entry["fold"]: entry for entry in document["training"]}
    by_fold[0]["patient"] = by_fold[1]["patient"] = "same"
    (cohort / "datalist.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="duplicate patient"):
        load_cases(str(cohort / "datalist.json"), str(cohort / "data"))
    scan(cohort, 1, "t1ce").write_bytes(scan(cohort, 0, "t1ce").read_bytes())
    split = {"training": ["phantom_0000"], "validation": ["phantom_0001"]}
    (cohort / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match="phantom_0001 .*duplicate patient.*phantom_0000"):
        make(cohort, split=str(cohort / "split.json"), folds=None)
    with pytest.raises(UserError, match="phantom_0001 .*held out.*phantom_0000"):
        make(cohort, split=str(cohort / "split.json"), folds=1)


def test_the_command_ends_with_a_sentence_and_code_1(command, tmp_path):
    result = command("scripts", "datalist", "--dataset_dir", tmp_path / "none", "--output", tmp_path / "x.json")
    assert result.returncode == 1
    assert "dataset_dir" in result.stderr and str(tmp_path / "none") in result.stderr
    assert "Traceback" not in result.stderr


def test_real_patients_get_their_split(tmp_path):
    folder = real_data("brats_2mm")
    make_datalist(str(folder), str(tmp_path / "list.json"), split=str(folder / "split.json"))
    split = json.loads((folder / "split.json").read_text())
    entries = json.loads((tmp_path / "list.json").read_text())["training"]
    assert {e["case"] for e in entries if e["fold"] == 0} == set(split["validation"])
    assert {e["case"] for e in entries if e["fold"] == 1} == set(split["training"])


def test_values_of_another_edition_name_the_option(cohort):
    """In a datalist of ET 4, a label of ET 3; a value that no edition has names none."""
    options = {"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data"), "fold": None}
    rewrite(scan(cohort, 2, "seg"), lambda v: np.where(v == 4, 3, v))
    advice = r"\[3\] .*\[0, 1, 2, 4\]: relabel .* datalist --label_values brats2023 or msd or nnunet *\n"
    with pytest.raises(UserError, match=advice):
        load_cases(**options)
    rewrite(scan(cohort, 2, "seg"), lambda v: np.where(v == 3, 9, v))
    with pytest.raises(UserError, match=r"\[9\] .*\[0, 1, 2, 4\]: relabel the file *\n"):
        load_cases(**options)


def test_an_earlier_datalist_is_kept_under_another_name(cohort, caplog):
    old = (cohort / "datalist.json").read_bytes()
    for folds in (3, 2, 2, 3):  # as before, another, the same, another
        make_datalist(str(cohort / "data"), str(cohort / "datalist.json"), folds=folds)
    kept = [cohort / name for name in ("datalist_1.json", "datalist_2.json")]
    assert sorted(cohort.glob("datalist_*.json")) == kept
    assert kept[0].read_bytes() == old == (cohort / "datalist.json").read_bytes()
    assert {entry["fold"] for entry in json.loads(kept[1].read_text())["training"]} == {0, 1}
    assert caplog.text.count("held another list") == 2


def test_an_earlier_datalist_stays_where_a_new_one_cannot_be_written(cohort, small_files):
    before = {path.name: path.read_bytes() for path in cohort.glob("*.json")}
    with small_files(100), pytest.raises(UserError, match=r"/datalist\.json cannot be written"):
        make_datalist(str(cohort / "data"), str(cohort / "datalist.json"), folds=2)
    assert {path.name: path.read_bytes() for path in cohort.glob("*.json")} == before


def test_folds_are_dealt_after_faulty_cases_are_left_out(cohort):
    """Otherwise a fold may be left empty."""
    for index in range(4):
        scan(cohort, index, "t2").unlink()
    entries = make(cohort, folds=2, strict=False, sequences=SEQUENCES)["training"]
    assert {entry["fold"] for entry in entries} == {0, 1} and len(entries) == 2


def test_label_values_say_what_the_labels_mean(cohort):
    for case in range(6):
        path = scan(cohort, case, "seg")
        rewrite(path, lambda label: np.select([label == 1, label == 2, label == 4], [2, 1, 3], 0), np.uint8)
    for name in ("msd", "nnunet", [0, 2, 1, 3]):
        make(cohort, label_values=name)
        assert label_values(str(cohort / "new.json")) == [0, 2, 1, 3]
    for name in ("brats2024", "brats", [0, 1]):
        with pytest.raises(UserError, match="label_values is "):
            make(cohort, label_values=name)
    with pytest.raises(UserError, match=r"unknown.*3"):
        make(cohort, label_values="brats2018")


def test_every_file_that_is_not_used_is_named_with_its_reason(cohort, capsys):
    folder = cohort / "data" / "phantom_0001"
    unused = ("phantom_0001_seg_v2.nii.gz", "phantom_0001_t1ce (1).nii.gz", "phantom_0001_mask.nii.gz", "notes.txt")
    for name in unused:
        (folder / name).write_bytes(b"")
    (cohort / "data" / "phantom_0009_t1ce.nii.gz").mkdir()
    make(cohort)
    said = capsys.readouterr().out
    assert all(f"phantom_0001/{name}" in said for name in unused) and "phantom_0009_t1ce.nii.gz" in said
    for index in range(60):
        (folder / f"odd{index}.nii.gz").write_bytes(b"")
    make(cohort)
    assert "and 12 more" in capsys.readouterr().out


def test_copies_under_two_names_are_one_patient(cohort, caplog):
    for role in (*SEQUENCES, "seg"):
        scan(cohort, 4, role).write_bytes(scan(cohort, 0, role).read_bytes())
    entries = {entry["case"]: entry for entry in make(cohort, folds=5)["training"]}
    assert entries["phantom_0004"]["patient"] == entries["phantom_0000"]["patient"]
    assert entries["phantom_0004"]["fold"] == entries["phantom_0000"]["fold"]
    assert "phantom_0000 and phantom_0004" in caplog.text


@pytest.mark.parametrize("affine", [np.eye(4), None])
def test_a_label_whose_header_was_lost_needs_that_of_its_image(cohort, affine):
    path = scan(cohort, 2, "seg")
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine), path)
    with pytest.raises(UserError, match=r"phantom_0002_seg\.nii\.gz .*copy that file's header"):
        make(cohort)


def rename_as(cohort, prefix):
    """The cohort in the form of BraTS 2023: PREFIX-00000-000-t1c.nii.gz and so on."""
    ending = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    for case in range(6):
        name = f"{prefix}-{case:05d}-000"
        for role, new in ending.items():
            scan(cohort, case, role).rename(scan(cohort, case, role).with_name(f"{name}-{new}.nii.gz"))
        scan(cohort, case, "seg").parent.rename(cohort / "data" / name)


def test_labels_of_children_have_another_meaning_unless_it_is_given(cohort):
    """1 ET, 2 NET, 3 CC, 4 ED, and files without 4: nothing in them tells that 1 is not NCR."""
    for case in range(6):
        rewrite(scan(cohort, case, "seg"), lambda label: np.array([0, 2, 3, 0, 1], np.uint8)[label])
    rename_as(cohort, "BraTS-PED")
    with pytest.raises(UserError, match=r"-00003-000-seg.* is of BraTS-PED, .* not known here +give --label"):
        make(cohort)
    assert make(cohort, label_values=[0, 2, 3, 1])["labels"] == {"0": "background", "1": "ET", "2": "NCR", "3": "ED"}


@pytest.mark.parametrize("with_3", [True, False])
def test_nothing_tells_whether_4_is_et_or_the_cavity_in_labels_after_treatment(cohort, with_3):
    for case in range(6):
        rewrite(scan(cohort, case, "seg"), lambda label: np.where(label == 4, 3, label), np.uint8)
    rewrite(
        scan(cohort, 2, "seg"), lambda label: np.where((label == 3) & (np.indices(label.shape)[0] % 2 > 0), 4, label)
    )
    if not with_3:
        rewrite(scan(cohort, 2, "seg"), lambda label: np.where(label == 3, 1, label))
    rename_as(cohort, "BraTS-GLI")
    found = "3 and 4" if with_3 else "4 in a file named as from 2023 on"
    with pytest.raises(UserError, match=rf"00002.* holds {found}: nothing tells whether 4 is ET or") as error:
        make(cohort)
    assert "1 fault(s) in 1 case(s)" in str(error.value) and "--label_values" in str(error.value)
    make(cohort, strict=False)
    assert label_values(str(cohort / "new.json")) == [0, 1, 2, 3]


def test_a_label_with_3_and_4_is_unclear_by_any_name(cohort):
    rewrite(
        scan(cohort, 2, "seg"), lambda label: np.where((label == 4) & (np.indices(label.shape)[0] % 2 > 0), 3, label)
    )
    with pytest.raises(UserError, match=r"phantom_0002_seg.* holds 3 and 4: nothing tells"):
        make(cohort)


def test_labels_of_another_brain_are_faults_and_empty_ones_are_named(cohort, caplog):
    rewrite(scan(cohort, 1, "seg"), lambda label: np.roll(label, 16, axis=2))
    image = nib.load(scan(cohort, 3, "seg"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), scan(cohort, 4, "seg"))
    rewrite(scan(cohort, 0, "seg"), np.zeros_like)
    with pytest.raises(UserError, match=r"phantom_0001_seg.*% of the tumour lies where phantom_0001_t1ce") as error:
        make(cohort)
    for case, other in ((3, 4), (4, 3)):
        assert re.search(rf"phantom_000{case}_seg\S+ +the same label as phantom_000{other}, but", str(error.value))
    assert "3 fault(s) in 3 case(s)" in str(error.value)
    assert "1 of 6 labels hold no tumour: phantom_0000." in caplog.text
