"""What settings build is checked before work starts."""

import pytest
from monai.networks.nets import DynUNet, SegResNetDS
from monai.transforms import CenterSpatialCropd, Compose, Lambdad, RandFlipd, RandGaussianNoised

from scripts.errors import UserError
from scripts.method.distillation import DistillationNetwork
from scripts.method.fusion import CooperativeFusion
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.settings.preflight import (
    check_augmentation,
    check_evaluation,
    check_fusion,
    check_networks,
    check_processes,
)

WIDTHS = [4, 4, 4, 4]


def test_networks_that_take_patches_of_their_sequences_pass():
    students = [
        ResUNet(1, 4, WIDTHS, deep_supervision=2),
        SegResNetDS(init_filters=8, in_channels=1, out_channels=4, blocks_down=[1, 1], dsdepth=2),
        DynUNet(3, 1, 4, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 4, 4], deep_supervision=True),
    ]
    teacher = Teacher(ResUNet(2, 4, WIDTHS), ["flair", "t2"], feature_layers=["decoder2"])
    for student in students:
        check_networks(DistillationNetwork(student, {"both": teacher}), [32, 16, 32])


@pytest.mark.parametrize(
    "student, teacher, message",
    [
        (
            ResUNet(2, 4, WIDTHS),
            None,
            r"network_def \(ResUNet\) with patches of t1ce, \(2, 1, 16, 16, 16\) \(roi_size\), fails",
        ),
        (ResUNet(1, 3, WIDTHS), None, r"logits of shape \(2, 3, 16, 16, 16\), expected \(2, 4, 16, 16, 16\)"),
        (
            ResUNet(1, 4, WIDTHS),
            ResUNet(1, 4, WIDTHS),
            r"teachers::both::network .* patches of flair, t2, .* in_channels",
        ),
    ],
)
def test_networks_of_other_channels_are_refused(student, teacher, message):
    teachers = {"both": Teacher(teacher, ["flair", "t2"])} if teacher else {}
    with pytest.raises(UserError, match=message):
        check_networks(DistillationNetwork(student, teachers), [16, 16, 16])


@pytest.mark.parametrize(
    "layer, channels, fits", [("decoder2", 4, True), ("decoder2", 8, False), ("decoder1", 4, False)]
)
def test_a_fusion_that_does_not_fit_its_teachers_is_refused(layer, channels, fits):
    teachers = {
        "t2": Teacher(ResUNet(1, 4, WIDTHS), "t2", feature_layers=["decoder2"]),
        "both": Teacher(ResUNet(2, 4, WIDTHS), ["flair", "t1"], feature_layers=[layer]),
    }
    networks = DistillationNetwork(ResUNet(1, 4, WIDTHS), teachers, CooperativeFusion({"t2": [4], "both": [channels]}))
    if fits:
        check_fusion(networks, [16, 16, 16])
        return
    size = 8 if layer == "decoder2" else 4
    shapes = rf"t2 \[\(4, 8, 8, 8\)\]; both \[\(4, {size}, {size}, {size}\)\]"
    with pytest.raises(UserError, match=rf"^fusion fails on features .* of {shapes}: .*fusion::in_channels::NAME"):
        check_fusion(networks, [16, 16, 16])


class ReadsValues(CooperativeFusion):
    def forward(self, features):
        return super().forward(features) if float(features["t2"][0].sum()) else []


def test_a_fusion_that_looks_at_values_is_not_checked():
    teachers = {"t2": Teacher(ResUNet(1, 4, WIDTHS), "t2", feature_layers=["decoder2"])}
    check_fusion(DistillationNetwork(ResUNet(1, 4, WIDTHS), teachers, ReadsValues({"t2": [8]})), [16, 16, 16])


def test_more_processes_than_validation_patients_are_refused():
    check_processes(processes=2, patients=2)
    check_processes(processes=1, patients=0)  # MONAI Label trains on what it has, and may hold nothing back
    with pytest.raises(UserError, match="3 processes share 2 validation .* at least one each: start fewer"):
        check_processes(processes=3, patients=2)


def test_processes_that_know_nothing_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    check_processes(processes=2, patients=2)
    with pytest.raises(UserError, match=r"torchrun started 2 processes, .*: add 'configs/multi_gpu_train.yaml'"):
        check_processes(processes=1, patients=2)
    with pytest.raises(UserError, match="torchrun started 2 processes, .*: start the command without torchrun"):
        check_processes()


def test_an_augmentation_that_spoils_a_patch_is_refused():
    check_augmentation(None, ["flair"], [16, 8, 16])
    check_augmentation(Compose([RandFlipd(["image", "flair", "label"], prob=1.0)]), ["flair"], [16, 8, 16])
    swap = Compose([Lambdad("image", lambda image: image[[3, 2, 1, 0]])])  # of a student that sees four sequences
    check_augmentation(swap, [], [16, 8, 16], channels=4)
    needs_all = Compose([RandFlipd(["image", "flair"], prob=1.0)])
    check_augmentation(needs_all, ["flair"], [16, 8, 16])
    with pytest.raises(UserError, match="augmentation fails .*flair"):  # which a patient may lack
        check_augmentation(needs_all, ["flair"], [16, 8, 16], gaps=True)
    with pytest.raises(UserError, match=r"makes \(1, 4, 8, 4\) of image, expected \(1, 16, 8, 16\)"):
        check_augmentation(Compose([CenterSpatialCropd("image", roi_size=[4, 8, 4])]), [], [16, 8, 16])
    with pytest.raises(UserError, match=r"fails on a patch of \(16, 8, 16\): .*t2"):
        check_augmentation(Compose([RandGaussianNoised("t2", prob=1.0)]), [], [16, 8, 16])


def test_an_evaluation_scores_one_student():
    with pytest.raises(UserError, match="ckpt_path is .*b.pt.*, expected one file: predict takes an ensemble"):
        check_evaluation([{}], ["a.pt", "b.pt"])
