"""The line that a command runs, and the keys that MONAI would end with a traceback for."""

import re
import signal
import sys

import pytest
from monai.bundle import ConfigParser

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.workflow import check_keys, config_files, run_line, shown

CONFIGS = BUNDLE / "configs"


def check(*names, **options):
    check_keys([str(name) if "/" in str(name) else str(CONFIGS / f"{name}.yaml") for name in names], options)


@pytest.mark.parametrize(
    "names, options, named",
    [
        (["train"], {"soft_targt::temperature": 2}, ["--soft_targt", "soft_target?"]),
        (["train"], {"loss::terms::studnt::weight": 1}, ["loss::terms::studnt", "student?"]),
        (["train"], {"train::handlers::99::seed": 2}, ["train::handlers::99"]),
        (["train"], {"network_def::attention::kind": "cbam"}, ["network_def::attention", "'channel'", "kind"]),
        (["train"], {"teachers::t2::network::widths": "[8]"}, ["teachers::t2::network", "%teachers::flair::network"]),
        (["train", "student_alone"], {"teachers::flair::network::widths": "[8]"}, ["teachers::flair"]),
        (["train", "student_alone"], {"soft_target::temperature": 2}, ["soft_target", "None", "temperature"]),
        (["inference", "two_levels"], {}, ["two_levels.yaml", "teachers"]),
        (["inference", "student_alone"], {}, ["student_alone.yaml", "loss", "prediction"]),
        (["inference", "multi_gpu_train"], {}, ["multi_gpu_train.yaml", "train", "prediction"]),
    ],
)
def test_a_part_that_does_not_exist_is_named(names, options, named):
    with pytest.raises(UserError) as error:
        check(*names, **options)
    assert all(word in str(error.value) for word in named)


@pytest.mark.parametrize("path", ["@out", "%out", "$HOMEx", "$DIR/out", "@seed"])
def test_a_path_that_monai_would_take_for_code_is_named(path):
    with pytest.raises(UserError, match="--output_dir is .* expected a path"):
        check("train", output_dir=path)
    for allowed in (f"./{path}", "$@bundle_root + '/out'"):
        check("train", output_dir=allowed)
    check("train", pretrained="$None")


@pytest.mark.parametrize("text", ["a@##b", "a %::#b", "*@::::c"])
def test_a_text_that_monai_takes_for_a_key_further_up_is_named(text):
    with pytest.raises(UserError, match="--t1ce is .* rename"):
        check("inference", t1ce=text)
    check("inference", t1ce="a@#b")
    check("train", **{"train::handlers::0::seed": "@##seed"})


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("epochs: [")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        check("train", tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    "text", ["", "# epochs: 3\n", "- epochs", "epochs", "3", "epochs:\n\t- 3", "epochs: 3\n---\nseed: 1", "\udcff"]
)
def test_a_file_of_another_form_is_named(text, tmp_path):
    (tmp_path / "own.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"own\.yaml"):
        check("train", tmp_path / "own.yaml")


def test_prediction_takes_the_part_of_a_method_that_it_needs(monkeypatch):
    monkeypatch.chdir(BUNDLE)
    assert config_files("inference", "paper") == ["configs/inference.yaml", "configs/paper_inference.yaml"]
    for names in ("paper,demo", "paper, demo", " paper ,demo,"):
        assert config_files("train", names) == ["configs/train.yaml", "configs/paper.yaml", "configs/demo.yaml"]


@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"train", "inference"}))
def test_our_own_overlays_and_new_keys_pass(name):
    check("train", name, **{"teachers::second": {}, "network_def::widths": "[8]", "train#handlers#0#seed": 2, "new": 1})
    check("inference", "full_resolution", **{"label_map::transforms::1::keys": "pred"})


@pytest.mark.parametrize(
    "text, typed",
    [("['a.yaml','b.yaml']", "\"['a.yaml','b.yaml']\""), ("$None", "'$None'"), ("plain", "plain"), ("a b", "'a b'")],
)
def test_words_are_shown_as_a_person_types_them(text, typed):
    assert shown(text) == typed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [1, None, 0])  # as torchrun's, as one of a signal, and an end that came first
def test_a_command_that_a_signal_stops_has_the_signals_exit_code(number, code):
    own = 128 + number if code is None else code
    lines = f"signal.signal({int(number)}, lambda *_: sys.exit({own}))", f"os.kill(os.getppid(), {int(number)})"
    text = "; ".join(["import os, signal, sys, time", *lines, "time.sleep(60)"])
    assert run_line([sys.executable, "-c", text]) == (0 if code == 0 else 128 + number)


def test_a_command_that_the_system_kills_is_told_of_memory(capfd):
    text = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert run_line([sys.executable, "-c", text]) == 128 + signal.SIGKILL
    assert "memory is full" in capfd.readouterr().err


def test_a_key_that_stands_twice_in_an_overlay_is_named(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("loss: {weight: 1}\nepochs: 3\nepochs: 4\n")
    begin = rf"^{re.escape(str(overlay))} cannot be read"
    with pytest.raises(UserError, match=rf"{begin} \(epochs stands twice in .*mine.yaml\", line 3, column 1"):
        check_keys([str(overlay)], {})
    overlay.write_text("base: &b {x: 1}\ntop: {<<: *b, y: 2}\n")
    with pytest.raises(Exception, match="merge"):
        ConfigParser.load_config_file(overlay)
    with pytest.raises(UserError, match=rf"{begin} \(MONAI does not merge by <<"):
        check_keys([str(overlay)], {})
