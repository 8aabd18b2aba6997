"""Misspelt keys and impossible values end a workflow before anything is built: options, overlays, own classes."""

import re
import sys

import pytest
import yaml
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow

from conftest import BUNDLE, bare_errors
from scripts.errors import UserError

CONFIGS = BUNDLE / "configs"
TEACHER = {"_target_": "scripts.method.teachers.Teacher", "sequences": ["t1"]}
SOFT = "soft_target"


def start(*overlays, run_id="training", **options):
    """What a command does first with train.yaml, overlays on it (names, or paths) and options."""
    files = [str(one) if "/" in str(one) else str(CONFIGS / f"{one}.yaml") for one in ("train", *overlays)]
    with bare_errors():
        ConfigWorkflow(files, run_id=run_id, logging_file=False, **options).initialize()


def overlay(folder, **keys):
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


@pytest.mark.parametrize(
    "options, named",
    [
        ({"epocs": 9}, ["epocs", "epochs"]),
        ({"networkdef": {}}, ["networkdef", "network_def"]),
        ({"network_def::atention": "cbam"}, ["network_def::atention", "attention"]),
        ({"network_def::_target_": "SegResNet"}, ["network_def::widths", "SegResNet"]),
        ({"network_def::_target_": "SegResNt"}, ["network_def", "SegResNt"]),
        ({"network_def::_target_": "nowhere.Net"}, ["network_def", "nowhere.Net"]),
        ({"train::handlers::1::sed": 2}, ["train::handlers::1::sed", "seed"]),
        ({f"{SOFT}::temprature": 2}, [f"{SOFT}::temprature", "temperature"]),
        ({f"{SOFT}::whole_tumour": "no"}, [f"{SOFT}::whole_tumour", "'no'"]),
        ({"confidence::dynamic": "false"}, ["confidence::dynamic", "'false'"]),
        ({"validate::inferer::amp": "False"}, ["validate::inferer::amp", "'False'"]),
        ({"loss": {"student_weight": 0.5}}, ["loss", "loss::student_weight"]),
        ({SOFT: {"temperature": 5.0}}, [SOFT, f"{SOFT}::temperature"]),
        ({"teachers": {"t": TEACHER | {"sequence": ["t1"]}}}, ["teachers::t::sequence", "sequences"]),
        ({"teachers::t": TEACHER | {"frozen": "no"}}, ["teachers::t::frozen", "'no'"]),
        ({"run_id": "trainng"}, ["trainng", "training"]),
        ({"loss::terms::distl_fusion_1": None}, ["loss::terms::distl_fusion_1", "distil_fusion_1?"]),
        ({"code_dir": "nowhere"}, ["code_dir", "nowhere"]),
    ],
)
def test_a_mistake_is_named_with_the_nearest_key(options, named):
    with pytest.raises(UserError) as error:
        start(**options)
    assert all(word in str(error.value) for word in named)


@pytest.mark.parametrize("keys", [{"epocs": 9}, {"network_def::atention": "cbam"}, {"loss": {"weight": 1}}])
def test_mistakes_in_overlays_are_found_as_well(keys, tmp_path):
    with pytest.raises(UserError, match=next(iter(keys))):
        start(overlay(tmp_path, **keys))


@pytest.mark.parametrize(
    "overlays",
    [
        ["student_alone"],
        ["student_alone", "four_sequences"],
        ["two_levels"],
        ["paper", "multi_gpu_train"],
        ["four_sequence_teacher", "full_resolution"],
        ["demo"],
        ["demo", "student_alone", "evaluate"],
    ],
)
def test_our_own_overlays_pass(overlays):
    start(*overlays)


def test_an_overlay_may_bring_new_parts_and_a_run_of_its_own(tmp_path):
    keys = {
        "mine": 3,
        "epochs": "@mine",
        "inspect": ["$print(1)"],
        "teachers::second": TEACHER | {"network": {"_target_": "SegResNet", "in_channels": 1, "out_channels": 4}},
        "optimizer::fused": None,
    }
    start(overlay(tmp_path, **keys), run_id="inspect")


def test_a_class_of_ones_own_is_found_in_code_dir_and_checked(tmp_path):
    (tmp_path / "own_losses.py").write_text(
        "class Mine:\n    def __init__(self, weight):\n        self.weight = weight\n"
    )
    own = {"code_dir": str(tmp_path), "loss::terms::mine": {"_target_": "own_losses.Mine", "weight": 1.0}}
    start(**own)
    with pytest.raises(UserError, match=r"loss::terms::mine::wait: own_losses\.Mine takes no wait"):
        start(**{**own, "loss::terms::mine": {"_target_": "own_losses.Mine", "wait": 1.0}})


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("train::batch_size", 4, "train::batch_size is used by nothing"),
        ("validate::mirror", True, "validate::mirror is used by nothing"),
        ("teachers::t9", None, "teachers::t9 is null, but there is no t9 to take away; did you mean t"),
        ("patch_ratios", [9, "1e-1", 1, 1], "patch_ratios::1 is the text '1e-1': write a number"),
        ("teachers::t1", None, "teachers::t1 is null: write NAME::_disabled_: true"),
        ("loss::terms::distil::weight", "5e-2", "loss::terms::distil::weight is the text '5e-2': write a number"),
        ("learning_rate", "1e-3", "learning_rate is the text '1e-3': write a number"),
        ("confidence::total", "0.15", "confidence::total is '0.15', expected a number"),
        ("optimizer::weight_decay", "abc", "optimizer::weight_decay is 'abc', expected a number"),
        ("loss::terms::student::weight", "high", "loss::terms::student::weight is 'high', expected a number"),
        ("optimizer::lr", 0.1, "optimizer::lr has no effect"),
    ],
)
def test_a_key_that_changes_nothing_or_ends_in_a_traceback_is_named(key, value, message):
    with pytest.raises(UserError) as error:
        start(**{key: value})
    assert str(error.value).startswith(message)


def test_a_term_of_one_overlay_is_taken_away_by_another(tmp_path):
    start("stored_targets", overlay(tmp_path, **{"loss::terms::soft": None}))


def test_a_key_below_train_that_the_config_refers_to_is_taken():
    metric = {"_target_": "IgniteMetricHandler", "metric_fn": {"_target_": "DiceMetric"}}
    start(**{"train::key_metric": {"train_dice": metric}, "train::trainer::key_train_metric": "@train::key_metric"})


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 0),
        ("epochs", "two"),
        ("roi_size", [60, 64, 64]),
        ("roi_size", 64),
        ("spacing", [2, 2]),
        ("overlap", 1.0),
        ("strict", "no"),
        ("patch_ratios", [3, 1]),
        ("patch_ratios", [0, 0, 0, 0]),
        ("seed", "abc"),
        ("learning_rate", "fast"),
        ("student_widths", 8),
        ("student_widths", [8, 16, 32, 62]),
        ("student_widths", [6, 16, 32, 64]),
        ("output_dir", __file__),
        ("output_dir", f"{__file__}/within"),
        ("student_sequence", "t3"),
        ("val_interval", 0),
        ("search_interval", 0),
        ("num_workers", -1),
        ("deep_supervision", 3),
        ("cache", "ram"),
        ("device", "cuda:99"),
        ("fold", -1),
        ("resume", "maybe"),
        ("resume", "False"),
        ("amp", "False"),
        ("clip_gradient", "None"),
        ("cache", ["disk"]),
        ("empty_rule", ["brats"]),
        ("pretrained", 2021),
        ("unlabelled_share", "half"),
        ("unlabelled_share", 1.0),
        ("unlabelled_share", True),
        ("unlabelled_ramp_up", "few"),
        ("unlabelled_ramp_up", -1),
        ("unlabelled_ramp_up", 0.5),
        ("targets", 2021),
    ],
)
def test_a_value_that_would_fail_later_is_named(key, value):
    with pytest.raises(UserError) as error:
        start(**{key: value})
    assert str(error.value).startswith(f"{key} is {value!r}, expected ")


@pytest.mark.parametrize(
    "options",
    [
        {"fold": "$None", "roi_size": [64, 64, 8], "spacing": None, "overlap": 0.5, "resume": "auto"},
        {"spacing": [1.5, 2, 2], "batch_size": 2, "student_sequence": ["flair", "t1ce"]},
        {"unlabelled_share": 0, "unlabelled_ramp_up": 3, "targets": "2021"},
        {"unlabelled_share": None, "targets": {"_target_": "scripts.inference.foreign_teachers.zoo_bundle"}},
        {"learning_rate": "$1e-3", "device": "cpu", "fusion": None, "confidence::total": "$3 * 0.05"},
        {"optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1}},
    ],
)
def test_good_values_pass(options):
    start(**options)


@pytest.mark.parametrize("name", ["models", "cache"])
def test_a_link_that_leads_out_of_output_dir_is_named(name, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "elsewhere").mkdir()
    (out / "within").mkdir()
    (out / name).symlink_to("within")
    start(output_dir=str(tmp_path / "link"))  # of the user's own choice
    (out / name).unlink()
    (out / name).symlink_to(tmp_path / "elsewhere")
    for folder in (out, tmp_path / "link"):
        with pytest.raises(UserError, match=f"output_dir is '{folder}'.* no links"):
            start(output_dir=str(folder))


def typed(monkeypatch, *words):
    """The config of a prediction whose command line has these words, after its first step."""
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run", "evaluating", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    keys = {key.lstrip("-"): DefaultParseValue(text) for key, text in zip(words[::2], words[1::2])}
    workflow = ConfigWorkflow(str(CONFIGS / "inference.yaml"), run_id="evaluating", logging_file=False, **keys)
    workflow.initialize()
    workflow.parser.get_parsed_content("evaluating::0")
    return workflow.parser


def test_a_folder_named_by_a_number_stays_text_on_monais_own_line(monkeypatch):
    """MONAI reads the option's text as a number first."""
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run", "training", "--dataset_dir", "2021"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    config = str(BUNDLE / "configs" / "train.yaml")
    workflow = ConfigWorkflow(config, run_id="training", logging_file=False, dataset_dir=2021)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("dataset_dir") == "2021"


@pytest.mark.parametrize(
    "key, text, read",
    [
        ("output_dir", "{}/out#2", None),
        ("output_dir", "{}/a::b", None),
        ("output_dir", "{}/a @#b", None),
        ("output_dir", "{}/a@::b", None),
        ("dataset_dir", "p#1", None),
        ("datalist", "2021#1", None),
        ("t1ce", "*#post.nii.gz", None),
        ("ckpt_path", "{}/w#/m.pt", None),
        ("ckpt_path", "['{}/w#/m.pt','{}/m.pt']", ["{}/w#/m.pt", "{}/m.pt"]),
        ("output_dir", "$@bundle_root + '/out'", "./out"),
    ],
)
def test_a_path_is_what_was_typed_everywhere(key, text, read, tmp_path, monkeypatch):
    """MONAI reads # as ::, and what follows it as a comment."""
    for name in ("w#", ""):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "m.pt").touch()
    here = str(tmp_path)
    text = text.replace("{}", here)
    wanted = text if read is None else [one.replace("{}", here) for one in read] if isinstance(read, list) else read
    parser = typed(monkeypatch, f"--{key}", text)
    assert parser.get_parsed_content(key) == wanted
    user = {"output_dir": "networks", "ckpt_path": "networks"}.get(key, "images")
    used = parser.ref_resolver.update_config_with_refs(f"@{key}", user, parser.ref_resolver.resolved_content)
    assert used == wanted
    assert text.startswith("$") or dict(parser.config)[key] == wanted  # which record_run writes


@pytest.mark.parametrize("key, text", [("names::t2", "*#.nii.gz"), ("code_dir", "mine#1"), ("names#t2", "a#b")])
def test_a_text_that_monai_changes_for_good_is_rejected(key, text, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--{key} is {re.escape(repr(text))}.* rename"), bare_errors():
        typed(monkeypatch, f"--{key}", text)
