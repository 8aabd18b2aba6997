"""What another program predicted, as a teacher: label maps and probabilities, of classes and of regions."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from conftest import BUNDLE, TINY, seeing
from scripts.data.stored_targets import ClassProbabilitiesd, find_targets, target_classes
from scripts.data.training_cases import load_cases
from scripts.errors import UserError
from scripts.files import read_json, read_table, write_json
from scripts.inference.writers import write_probabilities
from scripts.labels import REGIONS
from scripts.method.distillation import DistillationOutput, Part
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.terms import DistillationLoss
from scripts.variants.pseudo_labels import OneTeacherResponse, PseudoLabels
from scripts.variants.regions import regions_to_classes
from scripts.variants.stored_teacher import StoredTeacher

STORED = seeing(stored=["targets"])
BRATS_2018 = target_classes("brats2018", [])


def label_of(cohort, case):
    return nib.load(cohort / "data" / case / f"{case}_seg.nii.gz")


def classes_of(image):
    values = np.asarray(image.dataobj)
    return np.where(values == 4, 3, values).astype(int)


def one_hot(classes):
    return np.moveaxis(np.eye(4)[classes], -1, 0)


def test_regions_become_classes_and_back():
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(3, 4, 4, 4, generator=generator)  # TC, WT, ET, not nested
    classes = regions_to_classes(regions)
    assert classes.min() >= 0
    torch.testing.assert_close(classes.sum(0), torch.ones(4, 4, 4))
    core, whole, enhancing = regions
    nested = {"ET": enhancing, "TC": torch.maximum(core, enhancing)}
    nested["WT"] = torch.maximum(whole, nested["TC"])
    for name, members in REGIONS:
        torch.testing.assert_close(classes[list(members)].sum(0), nested[name])


def test_label_maps_and_probabilities_of_any_form_become_class_probabilities():
    classes = torch.tensor([[[[0, 1, 2, 3]]]])
    truth = torch.eye(4)[classes[0]].movedim(-1, 0)
    read = ClassProbabilitiesd("targets", target_classes("nnunet", [0, 1, 2, 4]))
    stored = torch.tensor([[[[0, 2, 1, 3]]]])  # nnU-Net's BraTS tasks have oedema as 1
    assert torch.equal(read({"targets": stored})["targets"], truth)
    assert torch.equal(ClassProbabilitiesd("targets", {0: 0})({"targets": truth})["targets"], truth)
    regions = torch.stack([truth[[1, 3]].sum(0), truth[1:].sum(0), truth[3]])
    assert torch.equal(read({"targets": regions})["targets"], truth)
    cavity = ClassProbabilitiesd("targets", target_classes("brats2024", []))({"targets": torch.full((1, 1, 1, 1), 4)})
    assert cavity["targets"].flatten().tolist() == [1, 0, 0, 0]
    with pytest.raises(UserError, match="target_values is 'brats19'"):
        target_classes("brats19", [])


def test_a_stored_teachers_soft_targets_are_those_that_were_stored():
    logits = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    student = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    teacher = StoredTeacher(floor=1e-7)
    stored, _ = teacher({"targets": logits.softmax(1)})
    for temperature in (1.0, 4.0):
        loss = SoftTargetLoss(temperature)
        torch.testing.assert_close(loss(student, stored), loss(student, logits))
    outside, _ = StoredTeacher()({"targets": torch.zeros(1, 4, 2, 2, 2)})
    assert (outside.argmax(1) == 0).all() and not list(teacher.parameters())


def test_pseudo_labels_count_for_unlabelled_patients_alone():
    student = [torch.randn(2, 4, 4, 4, 4), torch.randn(2, 4, 2, 2, 2)]
    teacher = torch.randn(2, 4, 4, 4, 4)
    label = torch.randint(0, 4, (2, 1, 4, 4, 4))
    output = DistillationOutput(student, {}, [], {}, [
        Part([0], True, DistillationOutput([s[[0]] for s in student], {"t": teacher[[0]]}, [])),
        Part([1], False, DistillationOutput([s[[1]] for s in student], {"t": teacher[[1]]}, [])),
    ])  # fmt: skip
    seg, soft = SegmentationLoss(), SoftTargetLoss()
    terms = {
        "a": PseudoLabels(seg, "t", 0.5),
        "b": PseudoLabels(seg, "t", 1.0, level=1),
        "c": OneTeacherResponse(soft, "t"),
    }
    loss = DistillationLoss(terms, distilling=True)
    loss(output, label)
    pseudo = teacher[[1]].argmax(1, keepdim=True)
    torch.testing.assert_close(loss.values["a"], 0.5 * seg(student[0][[1]], pseudo))
    torch.testing.assert_close(loss.values["b"], seg(student[1][[1]], pseudo[..., ::2, ::2, ::2]))
    torch.testing.assert_close(loss.values["c"], soft(student[0], teacher))


@pytest.fixture
def targets(cohort, tmp_path):
    """Predictions of five of six patients: probabilities of two, label maps of three."""
    folder = tmp_path / "targets"
    folder.mkdir()
    for index in range(5):
        case = f"phantom_{index:04d}"
        image = label_of(cohort, case)
        if index < 2:
            write_probabilities(folder / f"{case}_probabilities.nii.gz", one_hot(classes_of(image)), image.affine)
        else:
            nib.save(image, folder / (f"{case}.nii.gz" if index < 4 else f"{case}_seg.nii.gz"))
    return folder


def load(cohort, **options):
    return load_cases(str(cohort / "datalist.json"), str(cohort / "data"), None, teachers=STORED, **options)


def test_predictions_are_found_by_case(cohort, targets):
    entries = {e["case"]: e for e in load(cohort, targets=str(targets), target_classes=BRATS_2018)["training"]}
    assert [case for case in sorted(entries) if "targets" not in entries[case]] == ["phantom_0005"]
    assert entries["phantom_0001"]["targets"].endswith("phantom_0001_probabilities.nii.gz")
    assert entries["phantom_0004"]["targets"].endswith("phantom_0004_seg.nii.gz")
    stored = nib.load(entries["phantom_0001"]["targets"])
    assert stored.get_data_dtype() == np.uint8 and float(stored.get_fdata().max()) == pytest.approx(1)


def test_an_evaluation_of_a_student_with_stored_targets_needs_no_teacher(cohort, targets):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.yaml") for name in ("train", "stored_targets", "evaluate")])
    parser.update({"dataset_dir": str(cohort / "data"), "datalist": str(cohort / "datalist.json")})
    parser.update({"targets": str(targets), "bundle_root": str(BUNDLE)})
    cases = parser.get_parsed_content("cases")
    assert cases["validation"] and all("targets" not in case for case in cases["validation"])


def spoil_values(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), path)


def spoil_grid(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), path)


def spoil_probabilities(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32) * 20 - 3, image.affine), path)


def spoil_numbers(path):
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


def spoil_channels(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[..., :2].astype(np.float32), image.affine), path)


@pytest.mark.parametrize(
    "name, spoil, word",
    [
        ("phantom_0003.nii.gz", spoil_values, r"\[9\]"),
        ("phantom_0003.nii.gz", spoil_grid, "shape"),
        ("phantom_0003.nii.gz", spoil_numbers, "non-finite"),
        ("phantom_0000_probabilities.nii.gz", spoil_probabilities, "no probabilities"),
        ("phantom_0000_probabilities.nii.gz", spoil_channels, "3 regions or 4 classes"),
        ("phantom_0003.nii.gz", lambda path: path.write_bytes(b"no image"), "unreadable"),
    ],
)
def test_faults_of_predictions_are_found_before_training(cohort, targets, name, spoil, word):
    spoil(targets / name)
    with pytest.raises(UserError, match=f"{name[:12]} +{name} .*{word}"):
        load(cohort, targets=str(targets), target_classes=BRATS_2018)


def test_label_maps_of_another_edition_name_the_option(cohort, targets):
    path = targets / "phantom_0003.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(classes_of(image).astype(np.uint8), image.affine), path)
    options = {"targets": str(targets), "target_classes": BRATS_2018}
    with pytest.raises(UserError, match=r"phantom_0003 .*\[3\] .* --target_values brats2023 or .* or nnunet"):
        load(cohort, **options)
    load(cohort, **options | {"target_classes": target_classes("brats2024", [])})


def test_predictions_whose_values_mean_something_else_are_found_where_there_are_labels(cohort, targets):
    """nnU-Net numbers oedema 1 and necrosis 2, BraTS 2023 the other way round: every value has a meaning in both."""
    for path in targets.glob("*_000[234]*"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.array([0, 2, 1, 3], np.uint8)[classes_of(image)], image.affine), path)
    read = {name: target_classes(name, []) for name in ("brats2023", "nnunet")}
    with pytest.raises(UserError, match=r"phantom_0002.* of 0\.\d\d with .* 1\.00 with --target_values msd or nnunet"):
        load(cohort, targets=str(targets), target_classes=read["brats2023"])
    assert load(cohort, targets=str(targets), target_classes=read["nnunet"])


def rewrite(cohort, targets, make, ending="_probabilities"):
    """All predictions again, from the classes (H, W, D) of each label."""
    for path in targets.iterdir():
        path.unlink()
    for index in range(5):
        image = label_of(cohort, case := f"phantom_{index:04d}")
        made = make(classes_of(image))
        voxels = np.moveaxis(made, 0, 3).astype(np.float32) if ending else made.astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, image.affine), targets / f"{case}{ending}.nii.gz")


def regions_in(order):
    return lambda classes: np.stack([np.isin(classes, dict(REGIONS)[name]) for name in order]).astype(float)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda classes: one_hot(classes)[[0, 2, 1, 3]], "if its volumes are background, ED, NCR, ET: write them"),
        (lambda classes: one_hot(classes)[[0, 3, 1, 2]], "if its volumes are background, ET, NCR, ED: write them"),
        (regions_in(["WT", "TC", "ET"]), "regions that do not lie within each other"),
        (regions_in(["ET", "TC", "WT"]), "regions that do not lie within each other"),
        (lambda classes: np.concatenate([one_hot(classes)[:1], regions_in(["TC", "WT", "ET"])(classes)]), "sum up to"),
    ],
)
def test_volumes_in_another_order_are_named_before_training(cohort, targets, make, words):
    rewrite(cohort, targets, make)
    with pytest.raises(UserError, match=words):
        load(cohort, targets=str(targets), target_classes=BRATS_2018)


def test_a_speck_whose_regions_do_not_lie_within_each_other_is_no_fault(cohort, targets):
    def with_speck(classes):
        regions = regions_in(["TC", "WT", "ET"])(classes)
        regions[:, :2, :2, :2] = np.reshape([0.55, 0.45, 0.52], (3, 1, 1, 1))
        return regions * (np.indices(classes.shape)[0] < 2)

    rewrite(cohort, targets, with_speck)
    load(cohort, targets=str(targets), target_classes=BRATS_2018)


def test_labels_with_a_fourth_axis_are_compared_as_well(cohort, targets):
    for index in range(5):
        image = label_of(cohort, case := f"phantom_{index:04d}")
        voxels = np.asarray(image.dataobj)[..., None]
        nib.save(nib.Nifti1Image(voxels, image.affine), cohort / "data" / case / f"{case}_seg.nii.gz")
    load(cohort, targets=str(targets), target_classes=BRATS_2018)


@pytest.mark.parametrize(
    "make, edition, words",
    [
        (
            lambda classes: np.array([0, 1, 2, 4])[np.roll(classes, classes.shape[0] // 2, (0, 1, 2))],
            "brats2018",
            "hardly overlap with the labels",
        ),
        (lambda classes: 0 * classes, "brats2018", "hardly overlap with the labels"),
        (lambda classes: classes > 0, "brats2018", r"holds ED \(2\) or ET \(4\).*whole-tumour masks"),
    ],
)
def test_predictions_that_teach_nothing_are_named(cohort, targets, make, edition, words, caplog):
    rewrite(cohort, targets, make, ending="")
    load(cohort, targets=str(targets), target_classes=target_classes(edition, []))
    assert re.search(words, caplog.text)


def test_an_edition_that_loses_a_class_is_named(cohort, targets):
    rewrite(cohort, targets, lambda classes: np.array([0, 1, 2, 4])[classes], ending="")
    with pytest.raises(UserError, match=r"of 0\.6\d with .* 1\.00 with --target_values brats2018: give that"):
        load(cohort, targets=str(targets), target_classes=target_classes("brats2024", []))


def test_without_labels_a_line_says_how_predictions_are_read(cohort, targets, caplog):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    for entry in document["training"][:5]:
        del entry["label"], entry["fold"]
    write_json(cohort / "datalist.json", document)
    options = {"targets": str(targets), "target_classes": BRATS_2018, "teachers": {"stored": StoredTeacher()}}
    load_cases(str(cohort / "datalist.json"), str(cohort / "data"), None, **options)
    assert "Values of label maps: 1 NCR, 2 ED, 4 ET. Volumes of probabilities: background, NCR" in caplog.text


def test_two_predictions_of_a_case_are_named(cohort, targets):
    (targets / "again").mkdir()
    shutil.copy(targets / "phantom_0003.nii.gz", targets / "again")
    with pytest.raises(UserError, match=r"phantom_0003\.nii\.gz and .* are both of case phantom_0003: keep one"):
        find_targets(str(targets), ["phantom_0003"])


def test_a_faulty_prediction_that_is_left_out_costs_no_label_nor_other_teachers(cohort, targets, caplog):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    for entry in document["training"][2:4]:
        del entry["label"], entry["fold"]
    write_json(cohort / "datalist.json", document)
    for index in (1, 2, 3):
        names = [f"phantom_{index:04d}{ending}.nii.gz" for ending in ("_probabilities", "")]
        (targets / names[index > 1]).write_bytes(b"no image")
    spoil_grid(cohort / "data" / "phantom_0004" / "phantom_0004_seg.nii.gz")
    options = {"fold": None, "targets": str(targets), "target_classes": BRATS_2018, "strict": False}
    paths = str(cohort / "datalist.json"), str(cohort / "data")
    with pytest.raises(UserError, match="4 fault"):
        load_cases(*paths, teachers=STORED, **{**options, "strict": True})
    alone = load_cases(*paths, teachers=STORED, **options)
    has = {entry["case"]: set(entry) - {"case", "patient", "image"} for entry in alone["training"]}
    assert has == {
        "phantom_0000": {"label", "targets"},
        "phantom_0001": {"label"},
        "phantom_0005": {"label"},
    }  # 2 and 3 have neither label nor teacher, the label of 4 is faulty
    assert [entry["case"] for entry in alone["validation"]] == list(has)
    assert "Left out 1 case(s) with faults: phantom_0004" in caplog.text
    assert "Left out 3 target(s) with faults: phantom_0001, phantom_0002, phantom_0003" in caplog.text
    both = load_cases(*paths, teachers=STORED | seeing(flair=["flair"]), **options)
    has = {entry["case"]: set(entry) - {"case", "patient", "image"} for entry in both["training"]}
    assert has["phantom_0001"] == {"label", "flair"} and has["phantom_0002"] == has["phantom_0003"] == {"flair"}


def test_predictions_and_teachers_must_belong_together(cohort, targets, tmp_path):
    with pytest.raises(UserError, match="targets is not given"):
        load(cohort)
    with pytest.raises(UserError, match="no teacher sees it"):
        load_cases(str(cohort / "datalist.json"), str(cohort / "data"), targets=str(targets))
    with pytest.raises(UserError, match="targets is 'none'"):
        find_targets("none", ["a"])
    with pytest.raises(UserError, match=r"holds files such as phantom_0000.* none of a case .* such as a:"):
        find_targets(str(targets), ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"targets .*empty holds no NIfTI file, so none of a case .* such as a: give"):
        find_targets(str(tmp_path / "empty"), ["a"])


def test_only_files_that_are_not_used_are_named(cohort, targets, caplog):
    """As predict writes them: probabilities beside label maps. A name that differs in case is of nobody."""
    caplog.set_level("INFO")
    probabilities = targets / "phantom_0001_probabilities.nii.gz"
    for name in ("phantom_0000_seg", "phantom_0005_entropy", "Phantom_0005_seg", "phantom_0009_probabilities"):
        shutil.copy(
            probabilities if "prob" in name else targets / "phantom_0004_seg.nii.gz", targets / f"{name}.nii.gz"
        )
    found = find_targets(str(targets), [f"phantom_{index:04d}" for index in range(6)])
    lines = {record.getMessage(): record.levelname for record in caplog.records}
    foreign = "phantom_0009_probabilities.nii.gz"
    assert lines == {
        f"targets: 5 of 6 cases have a prediction in {targets}.": "INFO",
        f"Left out 2 file(s) (of no training case): Phantom_0005_seg.nii.gz, {foreign}": "WARNING",
        "Left out 1 file(s) (is a label map beside probabilities, which are used): phantom_0000_seg.nii.gz": "INFO",
        "Left out 1 file(s) (map of an inference): phantom_0005_entropy.nii.gz": "INFO",
    }
    assert {case: path.name for case, path in found.items()} == {
        **{f"phantom_000{index}": f"phantom_000{index}_probabilities.nii.gz" for index in (0, 1)},
        **{f"phantom_000{index}": f"phantom_000{index}.nii.gz" for index in (2, 3)},
        "phantom_0004": "phantom_0004_seg.nii.gz",
    }


def test_two_probabilities_of_a_case_are_named(targets):
    (targets / "more").mkdir()
    shutil.copy(targets / "phantom_0001_probabilities.nii.gz", targets / "more")
    with pytest.raises(UserError, match=r"phantom_0001_prob.* and .*phantom_0001_prob.* case phantom_0001: keep one"):
        find_targets(str(targets), ["phantom_0001"])


def test_own_probabilities_teach_a_student_that_has_no_label(cohort, targets, command, tmp_path):
    """The command as in the docs: predict with probabilities, then train on them; two patients have no label."""
    predicted = tmp_path / "predicted"
    arguments = ["--dataset_dir", cohort / "data", "--output_dir", predicted, "--probabilities", "True"]
    result = command("scripts", "predict", *arguments, "--mirror", "False", "--spacing", "$None")
    assert result.returncode == 0, result.stderr
    for index in range(6):
        name = f"phantom_{index:04d}"
        stored = nib.load(predicted / f"{name}_probabilities.nii.gz")
        label_map = nib.load(predicted / f"{name}_seg.nii.gz")
        np.testing.assert_allclose(stored.affine, label_map.affine)
        likely = np.array([0, 1, 2, 4])[stored.get_fdata().argmax(-1)]
        assert (likely == np.asarray(label_map.dataobj)).mean() > 0.999
        np.testing.assert_allclose(stored.get_fdata().sum(-1), 1, atol=0.01)
    document = read_json(str(cohort / "datalist.json"), "datalist")
    for entry in [entry for entry in document["training"] if entry["fold"] != 0][:2]:
        del entry["label"], entry["fold"]
    write_json(cohort / "datalist.json", document)
    options = ["--method", "stored_targets", "--targets", predicted, "--dataset_dir", cohort / "data", *TINY]
    options += ["--datalist", cohort / "datalist.json", "--output_dir", tmp_path / "run", "--epochs", "2"]
    result = command("scripts", "train", *options, "--loss::terms::soft::weight", "0.1")
    assert result.returncode == 0, result.stderr
    last = read_table(tmp_path / "run" / "history.csv")[-1]
    assert all(float(last[f"loss/{name}"]) > 0 for name in ("student", "pseudo", "pseudo_deep_1", "soft"))
