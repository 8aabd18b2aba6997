"""Terms that find nothing, and networks that do not learn though they teach, are named."""

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer

from conftest import paper_terms
from scripts.data.augmentation import PrepareAugmentedBatch
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork, parameter_groups
from scripts.method.fusion import CooperativeFusion
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.method.terms import DistillationLoss, StudentLabels
from scripts.training.handlers import WarmUp
from scripts.training.idle_parts import IdleParts

NAMES = ["flair", "t2"]


def warnings_of(caplog, change=lambda terms, model: None, left_out=(), fused=NAMES, gap=(), epochs=3):
    """The warnings of a training with the paper's terms and two teachers, the first epoch without distillation."""
    torch.manual_seed(0)
    teachers = {name: Teacher(ResUNet(1, 4, [4, 4, 4, 4]), [name], ["decoder2"]) for name in NAMES}
    fusion = CooperativeFusion({name: [4] for name in fused}) if fused else None
    model = DistillationNetwork(ResUNet(1, 4, [4, 4, 4, 4], deep_supervision=1), teachers, fusion)
    terms = paper_terms(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(NAMES))
    change(terms, model)
    loss = DistillationLoss(terms)
    groups = parameter_groups(model, {"lr": 0.01}, {"lr": 0.01})
    unknown = {id(weight) for name in left_out for weight in model.teachers[name].parameters()}
    for group in groups:
        group["params"] = [weight for weight in group["params"] if id(weight) not in unknown]
    patients = [{name: torch.rand(1, 16, 16, 16) for name in ["image", *NAMES]} for _ in range(2)]
    for number, patient in enumerate(patients):
        patient["label"] = torch.full((1, 16, 16, 16), 255 if number in gap else 1, dtype=torch.uint8)
    trainer = SupervisedTrainer(
        "cpu", epochs, DataLoader(patients, batch_size=1), model, torch.optim.SGD(groups), loss,
        prepare_batch=PrepareAugmentedBatch(None, NAMES, gaps=bool(gap)), decollate=False,
        train_handlers=[WarmUp(loss, 1), IdleParts(model, loss, epoch=2)],
    )  # fmt: skip
    trainer.run()
    return [message for message in caplog.messages if "up to epoch" in message]


def freeze(terms, model):
    model.teachers["t2"].requires_grad_(False)


@pytest.mark.parametrize("gap", [(), (1,)])
def test_where_all_parts_learn_nothing_is_said(gap, caplog):
    assert warnings_of(caplog, gap=gap) == [] == warnings_of(caplog, freeze, gap=gap)


@pytest.mark.parametrize("gap", [(), (1,)])
def test_a_teacher_that_learns_from_nothing_is_named_once(gap, caplog):
    def without_labels(terms, model):
        terms["teacher"].weight = terms["teacher"].warm_up_weight = 0.0

    (message,) = warnings_of(caplog, without_labels, fused=["t2"], gap=gap)
    assert message.startswith("These parts did not learn up to epoch 2: teachers::flair. They may still")


def test_weights_that_the_optimizer_lacks_are_named(caplog):
    (message,) = warnings_of(caplog, left_out=["t2"])
    assert "epoch 2: teachers::t2." in message


def test_a_fusion_that_teaches_without_having_learnt_is_named(caplog):
    (message,) = warnings_of(caplog, lambda terms, model: terms.pop("fusion_1") and None)
    assert "epoch 2: fusion." in message


@pytest.mark.parametrize("gap", [(), (1,)])
def test_a_term_that_finds_nothing_to_compare_is_named_unless_it_weighs_nothing(gap, caplog):
    def add(terms, model):
        terms |= {name: StudentLabels(SegmentationLoss(), weight, 7) for name, weight in (("far", 1.0), ("off", 0.0))}

    assert warnings_of(caplog, add, gap=gap) == [
        "loss::terms::far found nothing to compare up to epoch 2: if the networks or patients have nothing for them, "
        "take them away with null."
    ]
