"""Settings are checked before anything is built."""

import pytest
from monai.networks.nets import DynUNet, SegResNetDS
from monai.transforms import CenterSpatialCropd, Compose, Lambdad, RandFlipd, RandGaussianNoised

from scripts.distillation import DistillationNetwork, Teacher
from scripts.errors import UserError
from scripts.networks import ResUNet
from scripts.preflight import check_augmentation, check_networks, check_processes, check_settings, check_teachers

WIDTHS = [4, 4, 4, 4]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1"),
        ({"roi_size": [60, 64, 64]}, r"roi_size is \[60, 64, 64\], expected three multiples of 8"),
        ({"roi_size": 64}, "roi_size is 64"),
        ({"spacing": [2, 2]}, r"spacing is \[2, 2\], expected three positive numbers"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"dataset_dir": "/no/such/folder"}, "dataset_dir is '/no/such/folder', expected a folder that exists"),
        ({"et_label": 5}, "et_label is 5, expected 3 or 4"),
        ({"strict": "no"}, "strict is 'no', expected True or False"),
        ({"patch_ratios": [3, 1]}, "patch_ratios is .* expected four numbers of at least 0"),
        ({"seed": "abc"}, "seed is 'abc', expected a whole number"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3', expected a number of at least 0, in YAML 1.0e-3"),
        ({"student_widths": 8}, "student_widths is 8, expected four numbers of channels"),
        ({"student_widths": [8, 16, 32, 62]}, "expected four numbers of channels, multiples of 4 or 6"),
        ({"output_dir": __file__}, "output_dir is .*test_preflight.py', expected a folder"),
        ({"output_dir": f"{__file__}/within"}, "output_dir is .*within', expected a folder that may be written to"),
        ({"student_sequence": "t3"}, "student_sequence is 't3', expected one of flair, t1, t1ce, t2, or a list"),
        ({"sequences": ["flair", "t5"]}, "sequences is .*, expected a list of flair, t1, t1ce, t2"),
        ({"val_interval": 0}, "val_interval is 0, expected a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers is -1, expected a whole number of at least 0"),
        ({"deep_supervision": 3}, "deep_supervision is 3, expected 0, 1 or 2 heads"),
        ({"backend": "ncl"}, "backend is 'ncl', expected one of this machine: gloo, or nccl"),
        ({"cache": "ram"}, 'cache is .ram., expected "disk", "memory" or "none"'),
        ({"ckpt_path": "none.pt"}, "ckpt_path is 'none.pt', expected a file that exists"),
    ],
)
def test_values_that_would_fail_later_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_settings(**settings)


def test_good_values_pass(tmp_path):
    settings = {"epochs": 1, "fold": 0, "roi_size": [64, 64, 8], "spacing": None, "overlap": 0.5}
    assert check_settings(**settings, dataset_dir=str(tmp_path)) is None
    assert check_settings(spacing=[1.5, 2, 2], et_label=3, resume=True, batch_size=2) is None


def test_networks_that_take_patches_of_their_sequences_pass():
    students = [
        ResUNet(1, 4, WIDTHS, deep_supervision=2),
        SegResNetDS(init_filters=8, in_channels=1, out_channels=4, blocks_down=[1, 1], dsdepth=2),
        DynUNet(3, 1, 4, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 4, 4], deep_supervision=True),
    ]
    teacher = Teacher(ResUNet(2, 4, WIDTHS), ["flair", "t2"], feature_layers=["decoder2"])
    for student in students:
        assert check_networks(DistillationNetwork(student, {"both": teacher}), [32, 16, 32]) is None


@pytest.mark.parametrize(
    "student, teacher, message",
    [
        (ResUNet(2, 4, WIDTHS), None, r"network_def \(ResUNet\) with patches of t1ce, \(2, 1, 16, 16, 16\), fails"),
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


def test_a_teacher_that_sees_what_is_not_loaded_is_refused():
    teachers = {"t2": Teacher(ResUNet(1, 4, WIDTHS), "t2")}
    check_teachers(teachers, "t1ce", ["t1", "t2"])
    check_teachers(teachers, ["t1ce", "t2"], [])
    with pytest.raises(UserError, match=r"teachers::t2 sees t2, but sequences is \['flair'\]: add what it sees"):
        check_teachers(teachers, "t1ce", ["flair"])


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
    check_augmentation(swap, [], [16, 8, 16], ["flair", "t1", "t1ce", "t2"])
    with pytest.raises(UserError, match=r"makes \(1, 4, 8, 4\) of image, expected \(1, 16, 8, 16\)"):
        check_augmentation(Compose([CenterSpatialCropd("image", roi_size=[4, 8, 4])]), [], [16, 8, 16])
    with pytest.raises(UserError, match=r"fails on a patch of \(16, 8, 16\): .*t2"):
        check_augmentation(Compose([RandGaussianNoised("t2", prob=1.0)]), [], [16, 8, 16])
