"""Datalists of other tools are read where they hold what is needed, or named with what they lack."""

import json

import pytest

from scripts.data.datalist import read_datalist
from scripts.errors import UserError
from scripts.labels import SEQUENCES

MSD = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    "test": ["./imagesTs/BRATS_485.nii.gz"],
}


def monai_entry(case="BraTS2021_00000", fold=0, endings=("flair", "t1ce", "t1", "t2"), folder="TrainingData"):
    name = f"{folder}/{case}/{case}"
    return {"fold": fold, "image": [f"{name}_{ending}.nii.gz" for ending in endings], "label": f"{name}_seg.nii.gz"}


@pytest.fixture
def written(tmp_path):
    def write(document):
        (tmp_path / "list.json").write_text(json.dumps(document))
        return str(tmp_path / "list.json")

    return write


@pytest.mark.parametrize("order", [("flair", "t1ce", "t1", "t2"), ("t2", "t1", "t1ce", "flair")])
def test_folds_of_monai_become_ours_whatever_the_order_of_files(order, written):
    document = {"training": [monai_entry("BraTS2021_00000", 0, order), monai_entry("BraTS2021_00002", 1, order)]}
    read = read_datalist(written(document))
    assert [(entry["case"], entry["fold"]) for entry in read["training"]] == [
        ("BraTS2021_00000", 0),
        ("BraTS2021_00002", 1),
    ]
    first = read["training"][0]
    assert first["image"].endswith("_t1ce.nii.gz") and first["label"].endswith("_seg.nii.gz")
    assert all(first[name].endswith(f"_{name}.nii.gz") for name in SEQUENCES if name != "t1ce")
    assert read["labels"] == {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}


def test_a_case_of_monai_is_named_after_its_t1ce(written):
    images = ["a/P1_x_flair.nii.gz", "a/P1_t1ce.nii.gz", "a/P1_long_name_t2.nii.gz"]
    read = read_datalist(written({"training": [{"image": images, "label": "a/P1_seg.nii.gz", "fold": 0}]}))
    assert [entry["case"] for entry in read["training"]] == ["P1"]


def test_the_dataset_json_of_msd_serves_prediction(written):
    read = read_datalist(written(MSD), folds=False)
    (labelled,), (unlabelled,) = read["training"], read["testing"]
    assert labelled["case"] == "BRATS_001" and unlabelled["case"] == "BRATS_485"
    assert labelled["channels"] == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    assert {labelled[name] for name in ("image", "flair", "t1", "t2")} == {"./imagesTr/BRATS_001.nii.gz"}
    assert read["labels"] == {"0": "background", "1": "ED", "2": "NCR", "3": "ET"}


@pytest.mark.parametrize(
    "document, named",
    [
        (MSD, "without fold"),
        ({"channel_names": {"0": "T1"}, "labels": {"background": 0}, "numTraining": 3}, "nnU-Net"),
        ({"training": {"a": 1}}, "training"),
        ({"training": ["a.nii.gz"]}, "training::0"),
        ({"training": [{"case": "a", "image": "a.nii.gz", "label": "b.nii.gz", "fold": "0"}]}, "training::0::fold"),
        ({"training": [{"case": "a", "label": "b.nii.gz", "fold": 0}]}, "image"),
        ({"training": [{"case": "a", "image": 3, "label": "b.nii.gz", "fold": 0}]}, "image"),
        ({"training": [monai_entry(endings=("flair", "t1ce", "t1", "x"))]}, "_x.nii.gz"),
        ({"training": [monai_entry(endings=("flair", "t1", "t2"))]}, "T1ce"),
        (MSD | {"modality": {"0": "CT"}}, "'CT'"),
        (MSD | {"labels": {"0": "background", "1": "cancer"}}, "cancer"),
        (MSD | {"modality": {"x": "T1"}}, "modality"),
        (MSD | {"test": [3]}, "test::0 is the number 3"),
        (MSD | {"test": [{"label": "a"}]}, "test::0 has no image"),
        ({"training": [{"image": [], "label": "b", "fold": 0}]}, "T1ce"),
        ({"training": [monai_entry()], "validation": ["a"]}, "validation::0"),
        ({"training": [{"case": "a", "image": "a.nii.gz", "label": "b.nii.gz", "fold": True}]}, "training::0::fold"),
        ([{"train": ["a"], "val": ["b"]}], "the document is a list"),
        ([], "the document is a list"),
        ("a text", "the text 'a text'"),
        (None, "is empty"),
    ],
)
def test_what_is_missing_is_named(document, named, written):
    path = written(document)
    with pytest.raises(UserError) as error:
        read_datalist(path)
    assert path in str(error.value) and named in str(error.value)


def test_one_case_without_name_does_not_make_our_list_one_of_msd(written, cohort_source):
    """Its sequences would be lost in silence."""
    document = json.loads((cohort_source / "datalist.json").read_text())
    del document["training"][0]["case"]
    with pytest.raises(UserError, match=r"training::0 has no case"):
        read_datalist(written(document))


@pytest.mark.parametrize("key, meant", [("Label", "label"), ("FLAIR", "flair"), ("lable", "label")])
def test_a_misspelt_role_of_a_case_is_named(key, meant, written, cohort_source):
    """A patient whose label is misspelt would count as one without a label."""
    document = json.loads((cohort_source / "datalist.json").read_text())
    entry = document["training"][0]
    entry[key] = entry.pop(meant, "a.nii.gz")
    entry["scanner"] = "a key of the user's own"
    with pytest.raises(UserError, match=rf"training::0 has a key '{key}', expected '{meant}'"):
        read_datalist(written(document), folds=False)


def test_keys_of_the_users_own_do_not_matter(written, cohort_source):
    document = json.loads((cohort_source / "datalist.json").read_text())
    for entry in document["training"]:
        entry |= {"patient_id": "7", "labels": "x", "images": "y", "t1c": "z", "folds": 3}
    assert len(read_datalist(written(document))["training"]) == 6


def test_our_own_datalist_is_read_as_it_is(cohort_source):
    path = cohort_source / "datalist.json"
    assert read_datalist(str(path)) == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["", "case,image\na,b.nii.gz\n", "[" * 100_000, "\ufeff{", "training:\n\t- a"])
def test_what_is_no_json_is_named(text, tmp_path):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UserError, match=r"list\.json"):
        read_datalist(str(tmp_path / "list.json"))


def test_a_byte_order_mark_does_not_matter(tmp_path, cohort_source):
    text = (cohort_source / "datalist.json").read_text()
    (tmp_path / "list.json").write_text(text, encoding="utf-8-sig")
    assert read_datalist(str(tmp_path / "list.json")) == json.loads(text)


OUTSIDE = [
    "/etc/x.nii.gz",
    "../x.nii.gz",
    "a/../../x.nii.gz",
    "a/..",
    "..",
    "C:\\x.nii.gz",
    "..\\x.nii.gz",
    "a\0.nii.gz",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("key", ["image", "flair", "label"])
@pytest.mark.parametrize("part", ["training", "testing"])
def test_a_path_that_leads_out_of_dataset_dir_is_named_with_its_entry(path, key, part, written):
    entry = {"case": "P1", "image": "a.nii.gz", "label": "b.nii.gz", "fold": 0, key: path}
    with pytest.raises(UserError) as error:
        read_datalist(written({part: [{**entry, "case": "P0", key: "c.nii.gz"}, entry]}))
    assert f"{part}::1" in str(error.value) and repr(path) in str(error.value) and "P1" in str(error.value)


@pytest.mark.parametrize("path", OUTSIDE[:4])
def test_lists_of_other_tools_stay_in_dataset_dir_as_well(path, written):
    for document in (
        MSD | {"test": [path]},
        MSD | {"training": [{"image": "a.nii.gz", "label": path}]},
        {"training": [monai_entry(folder="..")]},
    ):
        with pytest.raises(UserError, match=r"::0::"):
            read_datalist(written(document), folds=False)


def test_dots_in_names_are_no_way_out(written):
    entry = {"case": "P..1", "image": "./a..b/..c.nii.gz", "label": "d.../b.nii.gz", "fold": 0}
    assert read_datalist(written({"training": [entry]}))["training"] == [entry]


@pytest.mark.parametrize("case", ["", ".", "..", "../P0", "a/b", "/tmp/P0", "a\\b", "a\0"])
def test_a_case_that_names_files_elsewhere_is_named(case, written):
    entry = {"case": case, "image": "a.nii.gz", "label": "b.nii.gz", "fold": 0}
    for part in ("training", "testing"):
        with pytest.raises(UserError, match=f"{part}::0::case"):
            read_datalist(written({part: [entry]}))


def test_two_cases_of_one_name_are_named(written):
    entry = {"case": "P0", "image": "a.nii.gz", "label": "b.nii.gz", "fold": 0}
    with pytest.raises(UserError, match="training::0 and testing::0"):
        read_datalist(written({"training": [entry], "testing": [{**entry, "image": "c.nii.gz"}]}))


@pytest.mark.parametrize(
    "image, label", [("a.nii.gz", "b_seg.nii.gz"), ("b.nii.gz", "a_seg.nii.gz"), ("b.nii.gz",) * 2]
)
def test_a_file_of_two_roles_or_cases_is_named(image, label, written):
    first = {"case": "a", "image": "a.nii.gz", "label": "a_seg.nii.gz", "fold": 0}
    path = written({"training": [first, {"case": "b", "image": image, "label": label, "fold": 1}]})
    with pytest.raises(UserError, match="give each its own file"):
        read_datalist(path)


@pytest.mark.parametrize("channels", [{"flair": 0}, {"t1ce": 1}, {"t1ce": -1}, {"t1ce": "0"}, {"t1ce": 0, "t1": 0}])
def test_channels_that_do_not_fit_are_named(channels, written):
    entry = {"case": "P0", "image": "a.nii.gz", "label": "b.nii.gz", "fold": 0, "channels": channels}
    with pytest.raises(UserError, match="training::0::channels"):
        read_datalist(written({"training": [entry]}))
