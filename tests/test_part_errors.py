"""A part of the config that cannot be built is named in one sentence."""

import re
import sys

import pytest
from monai.bundle import ConfigParser

from scripts.settings.part_errors import part_sentence, print_part_error, why_not_found

NET = "whole::net (monai.networks.nets.unet.UNet)"
UNET = {"_target_": "UNet", "in_channels": 1, "out_channels": 4}


def error_of(config):
    with pytest.raises(Exception) as raised:
        ConfigParser(config).get_parsed_content("whole")
    return raised.value


@pytest.mark.parametrize(
    "part, sentence",
    [
        (
            {**UNET, "channels": [8, 16], "strides": [2]},
            f"{NET} cannot be built: TypeError: UNet.__init__() missing 1 required positional argument: "
            "'spatial_dims'.",
        ),
        (
            {**UNET, "spatial_dims": 3, "channels": [8], "strides": [2]},
            f"{NET} cannot be built: ValueError: the length of `channels` should be no less than 2.",
        ),
        (
            {"_target_": "Dropout", "p": "@shar"},
            "whole::net refers to @shar, which is not in the config; did you mean @share?",
        ),
        (
            {"_target_": "Dropout", "p": "@nothing::at::all"},
            "whole::net refers to @nothing::at::all, which is not in the config: name a part that is there, or take "
            "away what refers to it.",
        ),
    ],
)
def test_the_key_and_the_cause_are_named(part, sentence, capsys):
    error = error_of({"whole": {"net": part}, "share": 0.5})
    assert part_sentence(error) == sentence
    print_part_error(type(error), error, error.__traceback__)
    assert capsys.readouterr().err == f"{sentence}\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of the user's own modules."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_good.py").write_text("class Net:\n    def __init__(self):\n        raise KeyError('x')\n")
    (tmp_path / "own_syntax.py").write_text("class Net:\n    def\n")
    (tmp_path / "own_import.py").write_text("import no_such_module\n")
    yield tmp_path
    for name in ("own_good", "own_syntax", "own_import"):
        sys.modules.pop(name, None)


def test_the_line_of_a_class_of_ones_own_is_named(own):
    error = error_of({"whole": {"_target_": "own_good.Net"}})
    assert part_sentence(error) == (
        f"whole (own_good.Net) cannot be built: KeyError: 'x' (line 3 of {own / 'own_good.py'})."
    )


def test_a_sentence_of_these_scripts_is_not_cut(own):
    """ValueErrors of these scripts say what to do at their end."""
    error = error_of(
        {"whole": {"_target_": "scripts.method.fusion.CooperativeFusion", "in_channels": {"a": [1] * 99, "b": [8]}}}
    )
    assert part_sentence(error).endswith("got {'a': 99, 'b': 1}.")


@pytest.mark.parametrize(
    "part",
    [
        {"_target_": "scripts.labels.class_named", "name": 3},
        {"_target_": "scripts.evaluation.surfaces.nearest", "points": "$[[0, 0, 0]]", "others": "$[[0, 0]]"},
    ],
)
def test_a_fault_of_these_scripts_keeps_its_traceback(part, capsys):
    """Also a ValueError of a library, in a step that builds nothing."""
    error = error_of({"whole": part})
    assert part_sentence(error) is None
    print_part_error(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target, reason",
    [
        ("Unett", ": give MONAI's name or the full path, and --code_dir"),
        ("no_such.module.Net", ": give MONAI's name or the full path, and --code_dir"),
        ("own_good.Nett", "; did you mean Net?"),
        ("scripts.labels.CLASSES", ": it is no class or function"),
        ("own_syntax.Net", ": own_syntax fails with SyntaxError: .*line 2"),
        ("own_import.Net", ": own_import fails with ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_it_is_said_why_a_class_is_not_found(target, reason, own):
    assert re.match(reason, why_not_found(target))
