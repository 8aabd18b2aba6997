"""Keys that the config does not have are refused, on the command line and in overlays."""

import pytest

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.overrides import bundle_options, refuse_unknown_keys

TRAIN = str(BUNDLE / "configs" / "train.yaml")
OVERLAYS = [
    ("train", "mtcm_kd", "demo", "evaluate"),
    ("train", "mtcm_kd", "paper", "multi_gpu_train"),
    ("train", "four_sequence_teacher", "full_resolution"),
    ("train", "four_sequences", "full_resolution"),
    ("inference", "full_resolution"),
]
TEACHER = "_target_: scripts.distillation.Teacher"
MAIN = "site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epocs", "9"], "--epocs is not a key of .*did you mean --epochs"),
        (["--learning-rte=0.1"], "--learning_rte .*did you mean --learning_rate"),
        (["--fusion", "None"], r"--fusion None is ignored by MONAI: pass --fusion '\$None'"),
        (["--networkdef::widths", "[8,8,8,8]"], "--networkdef::widths .*did you mean --network_def"),
        (["--network_def::atention", "cbam"], "--network_def::atention: there is no atention .*did you mean attention"),
        (["--train::trainr::max_epochs", "2"], "no trainr to set; did you mean trainer"),
        (["--train::handlers::99::seed", "2"], "no 99 to set; did you mean 9"),
        (["--network_def::_target_", "SegResNet"], "--network_def::_target_: SegResNet takes no widths: swap all of"),
        (["--network_def::_target_", "SegResNt"], "--network_def::_target_: _target_ SegResNt cannot be found"),
        (
            ["--loss::segmentation::_target_", "DiceCELoss", "--loss::segmentation::softmx", "True"],
            "there is no softmx to set; did you mean softmax",
        ),
        (["--network_def::attention::kind", "cbam"], "no kind to set; the config has a single value there"),
        (["--teachers::t", "{}", "--loss::soft_target::whole_tumour", "no"], "whole_tumour is 'no', expected True or"),
        (
            ["--teachers::t={}", "--confidence::dynamic=false"],
            "--confidence::dynamic is 'false', expected True or False",
        ),
        (["--train::trainer::amp", "no"], "--train::trainer::amp is 'no', expected True or False"),
        (["--teacher_checkpoint", "four.pt"], "--teacher_checkpoint changes nothing, since the config has no teachers"),
        (["--loss#soft_target#temperature=2"], "temperature changes nothing, .* add 'configs/mtcm_kd.yaml'"),
        (["--preprocessing::transforms::0::allow_missing_keys", "2"], "missing_keys is 2, expected True or False"),
    ],
)
def test_misspelt_options_are_refused_with_the_nearest_key(arguments, message):
    with pytest.raises(UserError, match=message):
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", TRAIN, *arguments]))


def test_a_misspelt_run_id_is_refused_with_the_nearest_key():
    with pytest.raises(UserError, match="trainng is not a key of .* that could be run; did you mean training?"):
        refuse_unknown_keys(bundle_options([MAIN, "run", "trainng", "--config_file", TRAIN]))


@pytest.mark.parametrize(
    "overlay, message",
    [
        ("epocs: 9", "overlay.yaml: epocs is not a key of the files before, nor used; did you mean epochs"),
        ("network_def::atention: cbam", "overlay.yaml: network_def::atention: there is no atention .*attention"),
        (
            "loss: {student_weight: 0.5}",
            "replaces all of .*DistillationLoss: write loss::student_weight",
        ),
        (
            "loss::soft_target: {temperature: 5.0}",
            "all of .*SoftTargetLoss: write loss::soft_target::temperature",
        ),
        (f"teachers: {{t: {{{TEACHER}, sequence: [t1]}}}}", "teachers::t: .*Teacher takes no sequence; .*sequences"),
        (
            f"teachers: {{t: {{{TEACHER}, sequences: [t1], frozen: 'no'}}}}",
            "teachers::t::frozen is 'no', expected True",
        ),
        ("confidence::dynamic: 'false'", "overlay.yaml: confidence::dynamic is 'false', expected True or False"),
        ("network_def: {_target_: SegRessNet}", "_target_ SegRessNet cannot be found"),
        ("learning_rat: 1.0e-3\nrun: '@training'", "learning_rat .*did you mean learning_rate"),
    ],
)
def test_misspelt_keys_of_overlays_are_refused(overlay, message, tmp_path):
    (tmp_path / "overlay.yaml").write_text(overlay)
    files = f"['{TRAIN}','{tmp_path / 'overlay.yaml'}']"
    with pytest.raises(UserError, match=message):
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", files]))


def test_a_config_that_stands_alone_must_come_first():
    overlay = str(BUNDLE / "configs" / "mtcm_kd.yaml")
    with pytest.raises(UserError, match=r"train\.yaml stands alone and would undo .*mtcm_kd\.yaml: put it first"):
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", str([overlay, TRAIN])]))


def test_overlays_may_bring_new_parts(tmp_path):
    (tmp_path / "overlay.yaml").write_text(
        "mine: 3\nepochs: '@mine'\ninspect: [$print(1)]\nteachers::second: {}\n"
        "network_def: {_target_: SegResNet, in_channels: 1}\nnetwork: $@distillation\n"
        "optimizer::fused: null\nloss::distilling: $@strict"
    )
    files = f"['{TRAIN}','{tmp_path / 'overlay.yaml'}']"
    assert refuse_unknown_keys(bundle_options([MAIN, "run", "inspect", "--config_file", files])) is None


@pytest.mark.parametrize("names", OVERLAYS)
def test_our_own_overlays_pass(names):
    files = str([str(BUNDLE / "configs" / f"{name}.yaml") for name in names])
    assert refuse_unknown_keys(bundle_options([MAIN, "run", "--config_file", files])) is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--epochs", "9", "--network_def::widths", "[8,8,8,8]", "--network_def#attention=cbam"],
        ["--network_def::in_channels", "2", "--teachers::second", "{}", "--train::inferer::network_wrapper", "x"],
        ["--loss::segmentation::_target_", "DiceCELoss", "--loss::segmentation::softmax", "True"],
        ["--train::trainer::compile", "True", "--train::handlers::0::seed", "2"],
        ["--teachers::t={}", "--loss::soft_target::whole_tumour", "--confidence::dynamic", "$@mirror"],
        ["--optimizer::fused", "$None", "--train::handlers::2::_disabled_", "true", "--teacher_widths", "[8,8,8,8]"],
        ["--meta_file", "x.json", "--tracking", "mlflow", "--run_name", "first"],
    ],
)
def test_known_options_pass(arguments):
    assert (
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", f"['{TRAIN}']", *arguments]))
        is None
    )


def test_programs_other_than_the_bundle_command_are_not_judged():
    assert refuse_unknown_keys(bundle_options(["pytest", "--config_file", TRAIN, "--epocs", "9"])) is None
