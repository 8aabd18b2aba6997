"""Terms that find nothing, and networks that do not learn though they teach, are named."""

from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer

from conftest import paper_terms
from scripts.data.augmentation import PrepareAugmentedBatch
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork, parameter_groups
from scripts.method.fusion import CooperativeFusion
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.method.terms import DistillationLoss, StudentLabels, Term
from scripts.training.handlers import WarmUp
from scripts.training.idle_parts import IdleParts

NAMES = ["flair", "t2"]


def train(change=lambda terms, model: None, left_out=(), fused=NAMES, gap=(), wrap=lambda model: model):
    """A training with the paper's terms and two teachers, the first epoch of three without distillation."""
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
        "cpu", 3, DataLoader(patients, batch_size=1), wrap(model), torch.optim.SGD(groups), loss,
        prepare_batch=PrepareAugmentedBatch(None, NAMES, gaps=bool(gap)), decollate=False,
        train_handlers=[WarmUp(loss, 1), IdleParts(model, loss, epoch=2)],
    )  # fmt: skip
    trainer.run()


def warnings_of(caplog, *changes, **settings):
    """The warnings of such a training."""
    train(*changes, **settings)
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


def test_frozen_teachers_need_no_term_against_labels(caplog):
    def freeze_all(terms, model):
        model.teachers.requires_grad_(False)

    assert warnings_of(caplog, freeze_all, fused=()) == [
        "loss::terms::fusion_1, loss::terms::distil_fusion_1 found nothing to compare up to epoch 2: if the networks "
        "or patients have nothing for them, take them away with null."
    ]


class Regressor(Term):
    """Brings the student's logits to others by weights of its own, as terms of feature distillation do."""

    def __init__(self):
        super().__init__(1.0)
        self.own = torch.nn.Conv3d(4, 4, 1)

    def forward(self, output, label):
        return (self.own(output.student[0]) - output.teachers["t2"].detach()).square().mean()


def test_a_terms_own_weights_are_named(caplog):
    (message,) = warnings_of(caplog, lambda terms, model: terms.update(near=Regressor()))
    assert message.startswith("These parts did not learn up to epoch 2: loss::terms::near.")
    assert "distillation::projection" in message


def without_a_term(terms, model):
    del terms["teacher"]


def train_on_a_rank(local_rank, folder):
    """What ends a training of two processes in which no term reaches the teacher that the fusion leaves out."""
    try:
        train(without_a_term, fused=["t2"], wrap=idist.auto_model)
    except UserError as error:
        Path(folder, str(local_rank)).write_text(str(error))


def test_several_processes_reject_a_teacher_that_no_term_reaches(tmp_path, free_port):
    """PyTorch would stop them in the second step, in words about its own."""
    idist.spawn("gloo", train_on_a_rank, (str(tmp_path),), nproc_per_node=2, master_port=free_port())
    for rank in range(2):
        assert (tmp_path / str(rank)).read_text().startswith("No term of the loss uses some weights of teachers::flair")
