"""One module for student, teachers and fusion: any networks, any sequences, frozen teachers."""

import gc

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNetDS

from conftest import paper_terms
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork, parameter_groups
from scripts.method.features import LayerOutputs
from scripts.method.fusion import CooperativeFusion
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.method.terms import DistillationLoss
from scripts.method.weights import load_weights

WIDTHS = (4, 8, 8, 16)
LABEL = torch.randint(0, 4, (2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))


def images(*names):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(2, 1, 16, 16, 16, generator=generator) for name in names}


def unet(in_channels=1, **options):
    return ResUNet(in_channels, 4, WIDTHS, **options)


def step(model, **sequences):
    """Loss and gradients of one distilling step."""
    confidence = TeacherConfidence(list(model.teachers))
    loss = DistillationLoss(paper_terms(SegmentationLoss(), SoftTargetLoss(), confidence), distilling=True)
    model.train()
    loss(model(**sequences), LABEL).backward()
    return loss.values


def gradient(network):
    return sum(p.grad.abs().sum().item() for p in network.parameters() if p.grad is not None)


def test_the_student_never_trains_a_teacher_nor_the_fusion():
    teachers = {"flair": Teacher(unet(), ["flair"], ["decoder2"])}
    model = DistillationNetwork(unet(deep_supervision=1), teachers, CooperativeFusion({"flair": [8]}))
    terms = paper_terms(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair"]))
    of_student = {name: term for name, term in terms.items() if name not in ("teacher", "fusion_1")}
    output = model.train()(**images("image", "flair"))
    DistillationLoss(of_student, distilling=True)(output, LABEL).backward()
    assert gradient(model.student) > 0
    assert gradient(model.teachers) == gradient(model.fusion) == 0


def test_the_fusion_trains_every_teacher():
    teachers = {name: Teacher(unet(), [name], ["decoder2", "decoder1"]) for name in ("flair", "t2")}
    model = DistillationNetwork(unet(), teachers, CooperativeFusion({name: [8, 8] for name in teachers}))
    output = model.train()(**images("image", "flair", "t2"))
    assert [tuple(fused.shape[2:]) for fused in output.fused] == [(8, 8, 8), (4, 4, 4)]
    sum(fused.square().mean() for fused in output.fused).backward()
    assert all(gradient(teacher) > 0 for teacher in teachers.values())


def test_channels_last_is_a_layout_and_no_other_network():
    outputs = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        model = DistillationNetwork(unet(), {}, channels_last=channels_last)
        outputs.append(model(**images("image")).student[0])
        weight = model.student.encoder1.conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    assert torch.allclose(*outputs, atol=1e-5)


def test_activation_checkpointing_changes_memory_not_gradients():
    gradients, saved = [], []
    for wanted in (False, True):
        torch.manual_seed(0)
        teachers = {name: Teacher(unet(), [name], ["decoder2"]) for name in ("flair", "t2")}
        fusion = CooperativeFusion({name: [8] for name in teachers})
        model = DistillationNetwork(unet(deep_supervision=1), teachers, fusion, activation_checkpointing=wanted)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: (k.append(t.numel()), t)[1], lambda t: t):
            output = model.train()(**images("image", "flair", "t2"))
        (output.student[0].square().mean() + output.fused[0].square().mean()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        saved.append(sum(kept))
    assert len(gradients[0]) == len(gradients[1]) > 50
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients))
    assert saved[1] < 0.1 * saved[0]


def test_activation_checkpointing_keeps_no_graph_after_the_backward_pass():
    teachers = {name: Teacher(unet(), [name], ["decoder2"]) for name in ("flair", "t2")}
    fusion = CooperativeFusion({name: [8] for name in teachers})
    options = {"activation_checkpointing": True, "student_feature_layers": ["decoder2"]}
    model = DistillationNetwork(unet(deep_supervision=1), teachers, fusion, **options).train()
    known = {id(item) for item in gc.get_objects() if isinstance(item, torch.Tensor)}
    output = model(**images("image", "flair", "t2"))
    terms = [*output.student, *output.teachers.values(), *output.fused, *output.features["student"]]
    sum(term.square().mean() for term in terms).backward()
    assert gradient(model.teachers) > 0
    del output, terms
    gc.collect()
    left = [item for item in gc.get_objects() if isinstance(item, torch.Tensor) and id(item) not in known]
    assert [tuple(item.shape) for item in left if item.grad_fn is not None] == []


def test_layer_outputs_are_those_of_the_call_and_not_kept():
    network = unet()
    layers = LayerOutputs(network, ["decoder2", "decoder1"])
    image = images("image")["image"]
    logits, (half, quarter) = layers(image)
    torch.testing.assert_close(logits, network(image))
    assert half.shape[2:] == (8, 8, 8) and quarter.shape[2:] == (4, 4, 4)
    assert layers.outputs is None
    with pytest.raises(RuntimeError):
        layers(image[:, :, :3])
    assert layers.outputs is None


def test_a_teacher_may_see_several_sequences_and_the_students():
    teachers = {"all": Teacher(unet(4), ["flair", "t1", "t1ce", "t2"])}
    model = DistillationNetwork(unet(), teachers, student_sequence="t1ce").train()
    batch = images("image", "flair", "t1", "t2")
    stacked = torch.cat([batch["flair"], batch["t1"], batch["image"], batch["t2"]], dim=1)
    torch.testing.assert_close(model(**batch).teachers["all"], teachers["all"].network(stacked))


def test_a_student_may_see_several_sequences():
    model = DistillationNetwork(unet(2), {"t2": Teacher(unet(), ["t2"])}, student_sequence=["t1", "t2"]).train()
    batch = images("t1", "t2")
    output = model(torch.cat([batch["t1"], batch["t2"]], dim=1))
    torch.testing.assert_close(output.teachers["t2"], model.teachers["t2"].network(batch["t2"]))


def test_monai_networks_serve_as_teacher_and_student():
    segresnet = SegResNetDS(init_filters=8, in_channels=1, out_channels=4, blocks_down=[1, 1], dsdepth=1)
    dynunet = DynUNet(3, 1, 4, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[4, 8, 8])
    teachers = {
        "flair": Teacher(segresnet, ["flair"], ["encoder.layers.1.blocks.0"]),
        "t2": Teacher(dynunet, ["t2"], ["upsamples.0"]),
    }
    fusion = CooperativeFusion({"flair": [16], "t2": [8]})
    students = [
        SegResNetDS(init_filters=8, in_channels=1, out_channels=4, blocks_down=[1, 1, 1], dsdepth=2),
        DynUNet(
            3, 1, 4, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 8, 8], deep_supervision=True, deep_supr_num=1
        ),
    ]
    for student in students:
        terms = step(DistillationNetwork(student, teachers, fusion), **images("image", "flair", "t2"))
        assert {"distil_flair", "distil_t2", "student_deep_1", "distil_fusion_1"} <= set(terms)
        assert all(torch.isfinite(term) for term in terms.values())
        assert gradient(student) > 0
        assert gradient(segresnet) > 0


def test_a_frozen_teacher_keeps_its_weights_and_its_mode(tmp_path):
    torch.save(unet().state_dict(), tmp_path / "teacher.pt")
    frozen = Teacher(unet(), ["flair"], ["decoder2"], frozen=True, checkpoint=str(tmp_path / "teacher.pt"))
    model = DistillationNetwork(unet(), {"flair": frozen}, CooperativeFusion({"flair": [8]}))
    terms = step(model, **images("image", "flair"))
    assert not frozen.training
    assert gradient(frozen) == 0
    assert gradient(model.fusion) > 0
    assert "teacher_flair" not in terms
    saved = torch.load(tmp_path / "teacher.pt", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in frozen.network.state_dict().items())
    groups = parameter_groups(model, {"lr": 1.0}, {"lr": 2.0})
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(model.student.parameters())) + len(list(model.fusion.parameters()))


def test_parameter_groups_hold_each_parameter_once_with_its_options():
    model = DistillationNetwork(unet(), {"flair": Teacher(unet(), ["flair"])})
    student, teachers = parameter_groups(model, {"lr": 1.0, "betas": (0.5, 0.9)}, {"lr": 2.0})
    assert (student["name"], student["lr"], student["betas"]) == ("student", 1.0, (0.5, 0.9))
    assert (teachers["name"], teachers["lr"]) == ("teachers", 2.0)
    ids = [id(p) for group in (student, teachers) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Teacher(unet(), ["t2"], ["decoder9"]), r"\['t2'\]: ResUNet has no layer decoder9; .*( decoder\d,){3}"),
        (lambda: Teacher(unet(), ["t2"], frozen=True), "frozen but has no checkpoint"),
        (lambda: Teacher(unet(), ["flair", "t9"]), "'t9'"),
        (
            lambda: DistillationNetwork(unet(), {"t2": Teacher(unet(), ["t2"])}, CooperativeFusion({"t2": [8]})),
            "feature_layers give {'t2': 0}",
        ),
        (
            lambda: DistillationNetwork(unet(), {"t2": Teacher(unet(), ["t2"])})(**images("image")),
            r"\['t2'\] are not in the batch",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_teachers_of_sequences_that_nobody_has_are_left_out_of_fusion_too(caplog):
    teachers = {name: Teacher(unet(), [name], ["decoder2"]) for name in ("flair", "t2", "t1")}
    fusion = CooperativeFusion({name: [8] for name in teachers})
    model = DistillationNetwork(
        unet(deep_supervision=1), teachers, fusion, patients=[{"image", "flair", "t1", "label"}]
    )
    assert list(model.teachers) == ["flair", "t1"]
    assert "left out" in caplog.text and "t2" in caplog.text
    step(model, **images("image", "flair", "t1"))
    assert all(parameter.grad is not None for parameter in model.parameters())
    alone = DistillationNetwork(unet(deep_supervision=1), teachers, fusion, patients=[{"image", "label"}])
    assert not alone.teachers and alone.fusion is None
    assert set(step(alone, **images("image"))) == {"student", "student_deep_1"}


def test_weights_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pt does not exist"):
        load_weights(unet(), str(tmp_path / "none.pt"))
    torch.save(ResUNet(widths=(8, 8, 8, 8)).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(UserError, match=r"wide\.pt does not fit ResUNet .*student_widths") as found:
        load_weights(unet(), str(tmp_path / "wide.pt"))
    message = str(found.value)
    assert "stem.conv1.weight is (8, 1, 3, 3, 3), expected (4, 1, 3, 3, 3)" in message
    assert message.index("give") < message.index("stem") and len(message) < 600
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"stem\.conv1\.weight is absent, expected \(4, 1, 3, 3, 3\)"):
        load_weights(unet(), str(tmp_path / "other.pt"))
    torch.save(dict(enumerate(unet().state_dict().values())), tmp_path / "numbered.pt")
    torch.save({name: value * float("nan") for name, value in unet().state_dict().items()}, tmp_path / "spoilt.pt")
    (tmp_path / "empty.pt").touch()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pt")
    for name in ("numbered", "spoilt", "empty", "script"):
        with pytest.raises(UserError, match=rf"{name}\.pt"):
            load_weights(unet(), str(tmp_path / f"{name}.pt"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pt is not a file of weights"):
        load_weights(unet(), str(tmp_path / "text.pt"))
    torch.save({"distillation": unet().state_dict(), "seed": 0}, tmp_path / "checkpoint.pt")
    with pytest.raises(
        UserError, match=r"checkpoint\.pt is a dictionary of .*, expected a state dict: give the model\.pt"
    ):
        load_weights(unet(), str(tmp_path / "checkpoint.pt"))
