"""Patients without some sequences, or without a label: each sample counts for what it has, and for nothing else."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import ClassesToIndicesd, RandCropByLabelClassesd

from conftest import BUNDLE, METHOD, TINY, TINY_TEACHERS, paper_terms
from scripts.data.augmentation import PrepareAugmentedBatch
from scripts.data.found_tumour import FoundTumour, voxels_by_class
from scripts.data.patient_sampler import PatientSampler, patient_sampler
from scripts.data.transforms import FillGapsd
from scripts.files import read_table
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork
from scripts.method.fusion import CooperativeFusion
from scripts.method.gaps import groups, is_gap
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher, can_teach
from scripts.method.terms import DistillationLoss
from scripts.training.handlers import ConfidenceUpdate

NAMES = ("flair", "t2", "t1")
# what each of six samples has besides T1ce
HAS = [
    {"flair", "t2", "t1", "label"},
    {"flair", "label"},
    {"t2", "t1"},
    {"label"},
    {"flair", "t2", "t1"},
    {"t1", "label"},
]
SAMPLES = {name: [i for i, has in enumerate(HAS) if name in has] for name in (*NAMES, "label")}


def network(seed=0):
    torch.manual_seed(seed)
    teachers = {name: Teacher(ResUNet(1, 4, (4, 8, 8, 8)), [name], ["decoder2"]) for name in NAMES}
    fusion = CooperativeFusion({name: [8] for name in NAMES})
    return DistillationNetwork(ResUNet(1, 4, (4, 8, 8, 8), deep_supervision=1), teachers, fusion).train()


def loss_of(gather=None):
    confidence = TeacherConfidence(list(NAMES), initial=0.1)
    terms = paper_terms(SegmentationLoss(), SoftTargetLoss(), confidence)
    return DistillationLoss(terms, distilling=True, gather=gather)


def batch(size=16):
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(6, 1, size, size, size, generator=generator) for name in ("image", *NAMES)}
    label = torch.randint(0, 4, (6, 1, size, size, size), generator=generator, dtype=torch.uint8)
    for name in NAMES:
        for number in set(range(6)) - set(SAMPLES[name]):
            images[name][number] = torch.nan
    label[[2, 4]] = 255
    return images, label


def pick(images, label, numbers):
    samples = {name: [k for k, number in enumerate(numbers) if number in own] for name, own in SAMPLES.items()}
    return {name: volume[numbers] for name, volume in images.items()}, label[numbers], samples


def test_a_batch_with_every_kind_of_gap_is_term_by_term_the_mean_of_its_samples():
    model, loss = network(), loss_of()
    images, label = batch()
    total = loss(model(**images, samples=SAMPLES), label)
    alone = []
    for number, has in enumerate(HAS):  # without gaps in the batch: only the teachers that see the sample
        teachers = {name: model.teachers[name] for name in NAMES if name in has}
        features = {name: teacher({name: images[name][[number]]})[1] for name, teacher in teachers.items()}
        outputs = {name: teacher({name: images[name][[number]]})[0] for name, teacher in teachers.items()}
        student = model.student(images["image"][[number]])
        output = model(**pick(images, label, [number])[0], samples={k: [0] if k in has else [] for k in SAMPLES})
        (part,) = output.parts
        assert set(part.output.teachers) == set(teachers)
        for name in teachers:
            torch.testing.assert_close(part.output.teachers[name], outputs[name])
        torch.testing.assert_close(part.output.fused, model.fusion(features) if features else [])
        torch.testing.assert_close(part.output.student[0], student[0])
        alone.append(loss_of().weighted(part.output, label[[number]], "label" in has))
    assert set(loss.values) == {name for values in alone for name in values}
    for name, value in loss.values.items():
        own = torch.stack([values[name] for values in alone if name in values])
        torch.testing.assert_close(value, own.mean().detach())
    torch.testing.assert_close(total.detach(), torch.stack(list(loss.values.values())).sum())
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_complete_batch_gives_the_same_with_and_without_the_list_of_samples():
    model, images = network(), batch()[0]
    images = {name: volume.nan_to_num(0.5) for name, volume in images.items()}
    label = batch()[1].clamp(max=3)
    whole, parts = loss_of(), loss_of()
    one, two = whole(model(**images), label), parts(model(**images, samples={}), label)
    torch.testing.assert_close(one, two)
    for name, value in whole.values.items():
        torch.testing.assert_close(value, parts.values[name])


@pytest.mark.parametrize("numbers", [[2, 4], [3], [3, 3]])
def test_batches_without_any_label_or_any_teacher_train(numbers):
    model, loss = network(), loss_of()
    images, label, samples = pick(*batch(), numbers)
    loss(model(**images, samples=samples), label).backward()
    gradient = sum(p.grad.abs().sum() for p in model.student.parameters())
    assert 0 < gradient < float("inf")


def test_a_batch_with_neither_label_nor_teacher_costs_nothing():
    model, loss = network(), loss_of()
    images, label = batch()
    nobody = {name: [] for name in SAMPLES}
    value = loss(model(**images, samples=nobody), label)
    value.backward()
    assert value == 0 and all(p.grad.abs().sum() == 0 for p in model.parameters())


def test_two_processes_with_uneven_gaps_learn_what_one_does():
    """The gradients of two processes, averaged as DistributedDataParallel does, are those of one batch."""
    images, label = batch()
    one = network()
    loss = loss_of()
    loss(one(**images, samples=SAMPLES), label).backward()
    shares = [[0, 1, 3], [2, 4, 5]]  # of labels: three and one
    counted = []  # what each process would send to the others
    for numbers in shares:
        own, truth, samples = pick(images, label, numbers)
        collect = loss_of(gather=lambda counts: counted.append(counts) or [counts])
        collect(network()(**own, samples=samples), truth)
    gradients, values = [], []
    for numbers in shares:
        model, part = network(), loss_of(gather=lambda counts: counted)
        own, truth, samples = pick(images, label, numbers)
        part(model(**own, samples=samples), truth).backward()
        gradients.append([p.grad for p in model.parameters()])
        values.append(part.values)
    for parameter, *two in zip(one.parameters(), *gradients):
        torch.testing.assert_close(sum(two) / 2, parameter.grad, atol=1e-5, rtol=1e-4)
    for name, value in loss.values.items():
        torch.testing.assert_close((values[0][name] + values[1][name]) / 2, value)


def test_confidence_comes_from_labelled_patients_alone():
    confidence, wanted = TeacherConfidence(list(NAMES)), TeacherConfidence(list(NAMES))
    model = network().eval()
    images, label = batch()
    output = {"pred": model(**images, samples=SAMPLES), "label": label}
    ConfidenceUpdate(confidence)(SimpleNamespace(state=SimpleNamespace(output=output)))
    for name in NAMES:
        for number in sorted(set(SAMPLES[name]) & set(SAMPLES["label"])):
            logits = model.teachers[name]({name: images[name][[number]]})[0]
            wanted.accumulate({name: logits}, label[[number]])
    torch.testing.assert_close(confidence.dice_sum, wanted.dice_sum)
    assert confidence.volumes.tolist() == [2, 1, 2]


@pytest.mark.parametrize("has", [{"flair": "", "label": ""}, {"flair": ""}])
def test_a_teacher_needs_a_patient_that_it_can_learn_from(has, caplog):
    teacher = Teacher(ResUNet(1, 4, (4, 8, 8, 8)), ["flair"])
    model = DistillationNetwork(ResUNet(1, 4, (4, 8, 8, 8)), {"flair": teacher}, patients=[{"label": ""}, has])
    assert ("flair" in model.teachers) == ("label" in has)
    assert ("left out" in caplog.text) == ("label" not in has)


@pytest.mark.parametrize(
    "frozen, patients, able",
    [(False, ["flair", "label"], False), (False, ["flair t2 label"], True), (False, ["flair t2"], False),
     (True, ["flair t2"], True), (True, ["flair label", "t2"], False), (True, [], False)],
)  # fmt: skip
def test_who_can_teach_is_one_rule(frozen, patients, able):
    assert can_teach(["flair", "t2"], frozen, [has.split() for has in patients]) is able


def test_samples_are_grouped_by_what_they_have():
    assert groups({"a": [0, 2], "b": []}, ["a", "b", "c"], 3) == {("a", "c"): [0, 2], ("c",): [1]}


def test_gaps_are_filled_marked_and_not_augmented():
    filled = [FillGapsd(["image", "flair", "label"])(sample) for sample in (
        {"image": torch.ones(1, 4, 4, 4, dtype=torch.float16), "label": torch.ones(1, 4, 4, 4)},
        {"image": torch.ones(1, 4, 4, 4, dtype=torch.float16), "flair": torch.ones(1, 4, 4, 4, dtype=torch.float16)},
    )]  # fmt: skip
    assert filled[0]["label"].dtype == torch.uint8  # else stacking would turn the gap of the other into 255.0
    assert is_gap(filled[0]["flair"]) and is_gap(filled[1]["label"]) and not is_gap(filled[1]["image"])
    loaded = {key: torch.stack([sample[key] for sample in filled]) for key in filled[0]}
    seen = []

    def augmentation(sample):
        seen.append(sorted(sample))
        return {key: value * 2 for key, value in sample.items()}

    image, label, _, options = PrepareAugmentedBatch(augmentation, ["flair"], gaps=True)(loaded, "cpu")
    assert seen == [["image", "label"], ["flair", "image"]]
    assert options["samples"] == {"image": [0, 1], "label": [0], "flair": [1]}
    assert torch.equal(image, torch.full_like(image, 2.0)) and image.dtype == torch.float32
    assert (label[0] == 2).all() and (label[1] == 255).all()
    assert options["flair"][0].isnan().all() and (options["flair"][1] == 2).all()


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_holds_the_asked_share_of_unlabelled_patients():
    labelled = [True] * 4 + [False] * 12
    natural = PatientSampler(labelled)
    assert sorted(epoch_of(natural, 1)) == list(range(16)) and epoch_of(natural, 1) != epoch_of(natural, 2)
    sampler = PatientSampler(labelled, share=0.25, ramp_up=4)
    counts = [sum(index >= 4 for index in epoch_of(sampler, epoch)) for epoch in range(1, 7)]
    assert counts == [0, 1, 2, 3, 4, 4]
    assert sorted(index for index in epoch_of(sampler, 9) if index < 4) == sorted([0, 1, 2, 3] * 3)
    assert epoch_of(PatientSampler(labelled, seed=1), 1) != epoch_of(natural, 1)


def test_an_epoch_holds_a_labelled_patient_however_large_the_share_of_the_others_is():
    for labelled in ([True, False], [True, False, False, False], [True] * 4):
        drawn = epoch_of(PatientSampler(labelled, share=0.9), 1)
        assert [labelled[index] for index in drawn].count(True) == (4 if all(labelled) else 1)


def test_processes_share_an_epoch():
    labelled = [True] * 3 + [False] * 4
    parts = [epoch_of(PatientSampler(labelled, rank=rank, world=2), 3) for rank in (0, 1)]
    assert [len(part) for part in parts] == [4, 4]
    assert set(parts[0]) | set(parts[1]) == set(range(7))


def test_labelled_patients_alone_need_no_sampler(caplog):
    assert patient_sampler([1, 2], [{"label": ""}] * 2) is None and not caplog.records
    assert patient_sampler([1, 2], [{"label": ""}] * 2, share=0.5) is None
    assert "unlabelled_share and unlabelled_ramp_up have no effect" in caplog.text
    assert isinstance(patient_sampler([1, 2], [{"label": ""}, {}]), PatientSampler)


def test_patches_of_unlabelled_patients_are_drawn_where_teachers_see_tumour():
    found_tumour = FoundTumour([9, 1, 1, 1])
    image = torch.zeros(1, 8, 8, 8)
    image[:, 2:6, 2:6, 2:6] = 1
    before = found_tumour({"case": "a", "image": image})["label_cls_indices"]
    assert [len(index) for index in before] == [64, 64, 64, 64]  # anywhere in the brain
    classes = torch.zeros(8, 8, 8, dtype=torch.uint8)
    classes[3, 4, 5] = 2
    found_tumour.add({"a": voxels_by_class(classes)})
    restored = FoundTumour([9, 1, 1, 1])
    restored.load_state_dict(found_tumour.state_dict())
    for known in (found_tumour, restored):
        after = known({"case": "a", "image": image})["label_cls_indices"]
        assert after[2].tolist() == [3 * 64 + 4 * 8 + 5] and len(after[0]) > 100
    labelled = {"case": "a", "image": image, "label": classes, "label_cls_indices": [[1, 2], [3], [], []]}
    assert [index.tolist() for index in found_tumour(labelled)["label_cls_indices"]] == [[1, 2], [3], [], []]


@pytest.mark.parametrize("has", ["nothing", "a label without tumour", "a teacher that sees none"])
def test_where_no_class_that_patches_are_centred_on_is_there_they_lie_anywhere_in_the_brain(has):
    found_tumour = FoundTumour([0, 1, 1, 1])
    patient = {"case": "a", "image": torch.zeros(1, 8, 8, 8)}
    patient["image"][:, 5, 5, 5] = 1
    empty = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    if has == "a label without tumour":
        patient = ClassesToIndicesd("label", num_classes=4)(patient | {"label": empty})
    elif has == "a teacher that sees none":
        found_tumour.add({"a": voxels_by_class(empty[0])})
    crop = RandCropByLabelClassesd(
        "image", "label", spatial_size=[3, 3, 3], ratios=[0, 1, 1, 1], num_classes=4, image_key="image",
        indices_key="label_cls_indices", warn=False,
    )  # fmt: skip
    assert crop(found_tumour(patient))[0]["image"][0, 1, 1, 1] == 1


@pytest.fixture
def gapped(cohort):
    """Six patients: complete, without FLAIR, unlabelled, T1ce and label alone, and two to validate on."""
    document = json.loads((cohort / "datalist.json").read_text())
    train = [entry for entry in document["training"] if entry["fold"] != 0]
    del train[0]["flair"], train[1]["label"], train[1]["fold"]
    for name in ("flair", "t1", "t2"):
        del train[2][name]
    (cohort / "datalist.json").write_text(json.dumps(document))
    return cohort


def test_a_training_with_gaps_runs_and_resumes_bit_for_bit(gapped, command, tmp_path):
    data = ["--dataset_dir", gapped / "data", "--datalist", gapped / "datalist.json"]
    options = [*data, *TINY, *TINY_TEACHERS, "--val_interval", "1", "--unlabelled_ramp_up", "1", "--epochs", "4"]
    result = command("scripts", "train", *options, "--output_dir", tmp_path / "whole")
    assert result.returncode == 0, result.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "models" / "checkpoint.pt").unlink()  # that of the epoch before is left
    result = command("scripts", "train", *options, "--output_dir", tmp_path / "resumed", "--resume", "True")
    assert result.returncode == 0, result.stderr
    last = [read_table(tmp_path / name / "history.csv")[-1] for name in ("whole", "resumed")]
    assert last[0]["loss/total"] == last[1]["loss/total"] and float(last[0]["loss/distil_flair"]) > 0
    whole, resumed = (torch.load(tmp_path / name / "models" / "checkpoint.pt") for name in ("whole", "resumed"))
    assert list(whole["found_tumour"]) == list(resumed["found_tumour"]) != []
    for key, value in whole["distillation"].items():
        assert torch.equal(value, resumed["distillation"][key]), key


def test_the_method_becomes_the_student_alone_where_patients_have_t1ce_and_labels_alone():
    parser = ConfigParser()
    parser.read_config(BUNDLE / METHOD[0])
    parser["train"]["dataset"]["data"] = [{"image": "a.nii.gz", "label": "b.nii.gz"}]
    assert list(parser.get_parsed_content("distillation").teachers) == []
    assert parser.get_parsed_content("teacher_images") == [] and parser.get_parsed_content("gaps") is False
