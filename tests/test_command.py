"""Commands: their list and help, how options are checked and read, and the line that runs a workflow."""

import errno
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from conftest import BUNDLE, ROOT
from scripts import __main__ as main
from scripts.command import Positional, check_options, choose_command, command_line_options, run_command
from scripts.errors import UserError
from scripts.labels import SEQUENCES
from scripts.workflow import check_keys, config_files, run_line

calls: list = []

HELP = """
import runpy, sys
for arguments in [[], *([name, "--help"] for name in {names})]:
    sys.argv = ["scripts", *arguments]
    try:
        runpy.run_module("scripts", run_name="__main__")
    except SystemExit as end:
        assert not end.code, arguments
heavy = {{"torch", "monai", "ignite", "nibabel", "scipy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""


def act(pred: "Positional", folds: "int" = 5, ratio: "float" = 0.5, strict: "bool" = True) -> None:
    calls.append((pred, folds, ratio, strict))


def act_on_anything(pred: "str", **keys: "str") -> None:
    calls.append((pred, keys))


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@pytest.fixture
def type_in(monkeypatch):
    """Type a command line, by words."""

    def run(function, *arguments):
        monkeypatch.setattr(sys, "argv", ["scripts", *arguments])
        function()

    return run


def choose():
    choose_command({name: main.find_command(target) for name, target in main.COMMANDS.items()})


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--pred", "a", "--fold", "3"], "--fold .*--folds"),
        (["--pred=a", "--rato=1"], "--rato .*--ratio"),
        (["--metrc", "a"], "--metrc .*--pred, --folds, --ratio, --strict"),
        (["--pred", "a", "--strict", "maybe"], "--strict .*'maybe'"),
        (["--pred", "a", "--folds", "two"], "--folds .*'two'"),
        (["--pred", "a", "--folds", "1.5"], r"--folds .*'1\.5'"),
        (["--pred", "a", "--ratio", "half"], "--ratio .*'half'"),
        (["--pred", "a", "--folds", "-1"], "--folds .*'-1'"),
        (["--pred", "a", "--folds", "True"], "--folds .*'True'"),
        (["--pred", "a", "--ratio=-0.5"], r"--ratio .*'-0\.5'"),
        (["--pred", "a", "--folds", "3", "--folds=2"], "--folds .*'3' .*'2'"),
        (["--pred", "a", "--pred", "b"], "--pred .*'a' .*'b'"),
        (["--pred", "--folds", "3"], "--pred .*a value"),
        (["--folds", "3", "--pred"], "--pred .*a value"),
        (["--pred", "", "--folds", "3"], "--pred .*a value"),
        (["--pred="], "--pred .*a value"),
        (["--pred", "a", "--folds"], "--folds .*whole"),
        (["a", "3"], "'3' follows no option"),
        (["--pred", "a", "b.nii"], "'b.nii' .*quotes"),
        (["--pred", "a", "--folds", "3", "-"], "'-' follows no option"),
        (["--pred", "a", "--", "--trace"], "'--' follows no option"),
        (["--pred", "a", "-strict", "false"], "-strict .*--strict"),
        (["--pred", "a", "-fold", "-3"], "-fold .*--folds"),
        (["--pred", "a", "-s"], "-s is not an option here; there are --pred"),
        (["--pred", "a", "--nostrict=False"], "--nostrict .*--strict"),
        (["--pred", "a", "--nostrict", "False"], "--nostrict .*--strict"),
        (["--pred", "a", "--no-strict"], "--no-strict .*--strict"),
        (["--pred", "a", "--nofolds"], "--nofolds .*--folds"),
        (["--pred", "a", "--strict="], "--strict is empty"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_done(arguments, named, type_in):
    with pytest.raises(UserError, match=named):
        type_in(lambda: run_command(act), *arguments)
    assert not calls


@pytest.mark.parametrize(
    "arguments, call",
    [
        (["a"], ("a", 5, 0.5, True)),
        (["a", "--folds", "3", "--nostrict"], ("a", 3, 0.5, False)),
        (["a", "--strict", "--ratio", "2"], ("a", 5, 2, True)),
        (["--pred", "a", "--folds=2", "--ratio", "1", "--strict", "False"], ("a", 2, 1, False)),
        (["--folds=2", "a"], ("a", 2, 0.5, True)),
    ],
)
def test_good_options_are_passed_on(arguments, call, type_in):
    type_in(lambda: run_command(act), *arguments)
    assert calls == [call]


def test_a_function_that_takes_any_option_gets_text(type_in):
    type_in(lambda: run_command(act_on_anything), "--pred", "2021", "--spacing", "[2,2,2]", "--seed=-1", "--mirror")
    assert calls == [("2021", {"spacing": "[2,2,2]", "seed": "-1", "mirror": "True"})]


@pytest.mark.parametrize(
    "words, named",
    [
        (["compare", "a.csv", "b.csv", "c.csv"], "'c.csv'"),
        (["score", "--pred", "a", "--truth", "b", "EXTRA", "--output", "c.csv"], "'EXTRA'"),
        (["datalist", "--dataset_dir", "a", "--output", "b.json", "--t1ce", "P0.nii.gz", "P1.nii.gz"], "'P1.nii.gz'"),
        (["phantom", "OUT", "1", "40", "x"], "'OUT'"),
        (["predict", "--dataset_dir", "A", "B", "--output_dir", "C"], "'B'"),
        (["predict", "--dataset_dir", "A", "--output_dir", "B", "-mirror", "False"], "-mirror .*--mirror"),
        (["train", "--dataset_dir", "A", "--datalist", "B", "-output_dir", "C"], "-output_dir .*--output_dir"),
    ],
)
def test_a_word_without_an_option_ends_a_command_before_it_works(words, named, type_in, monkeypatch):
    monkeypatch.setattr(main.importlib, "import_module", lambda name: pytest.fail(f"{name} was called"))
    with pytest.raises(UserError, match=named):
        type_in(choose, *words)


def test_the_two_runs_of_a_comparison_need_no_option():
    parameters = inspect.signature(main.find_command(main.COMMANDS["compare"])).parameters
    options = {"run_a": "A", "run_b": "B", "output": "C.csv"}
    for words in (["A", "B", "--output", "C.csv"], ["--output=C.csv", "--run_a", "A", "B"]):
        assert check_options(words, parameters) == options


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_output_that_cannot_be_printed_ends_with_a_sentence(number, type_in, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(UserError, match=re.escape(os.strerror(number))):
        type_in(lambda: run_command(act), "a")
    assert len(calls) == 1
    print("what Python writes at its end")


def test_an_error_of_a_file_is_not_taken_for_one_of_the_output(type_in):
    with pytest.raises(FileNotFoundError):
        type_in(lambda: run_command(lambda: os.stat("/none")))


PAGES = [ROOT / "README.md", *sorted((BUNDLE / "docs").glob("*.md"))]
LINES = {line for page in PAGES for line in re.findall(r"python -m scripts ([a-z_]+ [^`\n#;]*)", page.read_text())}


@pytest.mark.parametrize("line", sorted(line for line in LINES if "--help" not in line))
def test_commands_of_the_pages_have_these_options(line, monkeypatch):
    monkeypatch.chdir(BUNDLE)
    name, *words = shlex.split(re.sub(r"\"\$\{[A-Z]+\[@\]\}\"|\.\.\.$|[\[\]](?=-|$)", "", line))  # DATA: options
    parameters = inspect.signature(main.find_command(main.COMMANDS[name])).parameters
    check_options(words, parameters)
    if name not in ("train", "evaluate", "predict"):
        return
    options = command_line_options(words)
    method = ",".join(word for word in options.get("method", "").split(",") if not word.endswith(".yaml"))
    base = ("inference", method) if name == "predict" else ("train", method + ",evaluate" * (name == "evaluate"))
    keys = {key: value for key, value in options.items() if key not in {*parameters, *SEQUENCES, "label"}}
    check_keys(config_files(*base), keys)


def test_an_evaluation_is_of_the_overlays_and_then_of_evaluate_yaml(type_in, monkeypatch):
    lines = []
    monkeypatch.setattr(main, "run_line", lambda line, *_: lines.append(line))
    monkeypatch.chdir(BUNDLE)
    type_in(
        choose,
        "evaluate",
        "--dataset_dir",
        "DIR",
        "--datalist",
        "FILE",
        "--method",
        "demo,student_alone",
        "--fold",
        "1",
    )
    options = command_line_options(lines[0])
    names = ("train", "demo", "student_alone", "evaluate")
    assert lines[0][1:5] == ["-m", "monai.bundle", "run", "evaluating"]
    assert options["config_file"] == str([f"configs/{name}.yaml" for name in names])
    assert (options["dataset_dir"], options["datalist"], options["fold"]) == ("DIR", "FILE", "1")


def test_a_misspelt_option_is_named_also_where_any_is_taken(type_in):
    with pytest.raises(UserError, match="--prd .*--pred"):
        type_in(lambda: run_command(act_on_anything), "--prd", "a")
    assert not calls


def test_options_are_read_as_fire_does():
    line = ["run", "--a-b", "1", "--c=x=y", "--n", "-1", "--e", "--d"]
    assert command_line_options(line) == {"a_b": "1", "c": "x=y", "n": "-1", "e": "", "d": ""}


def test_the_list_of_commands_and_each_help_import_nothing_heavy():
    program = HELP.format(names=list(main.COMMANDS))
    result = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    text = result.stdout + result.stderr
    for name, target in main.COMMANDS.items():
        first_line = main.find_command(target).__doc__.splitlines()[0]
        assert f"     {name}\n       {first_line}" in text
        assert f"scripts {name} - {first_line}" in text
        assert f"scripts {name} {'RUN_A RUN_B ' * (name == 'compare')}<flags>" in text  # no other word may stand alone


def test_commands_without_a_network_do_not_import_pytorch():
    names = ("datalist", "phantom", "score", "compare", "report", "curves", "overview")
    modules = ", ".join(main.COMMANDS[name].split(":")[0] for name in names)
    code = f"import sys, {modules}; print(*{{'torch', 'monai', 'ignite'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("name", main.COMMANDS)
def test_options_read_from_the_source_are_the_functions_own(name):
    module, function = main.COMMANDS[name].split(":")
    own = inspect.signature(getattr(importlib.import_module(module), function))
    read = inspect.signature(main.find_command(main.COMMANDS[name]))
    assert [(item.name, item.default, item.kind) for item in read.parameters.values()] == [
        (item.name, item.default, item.kind) for item in own.parameters.values()
    ]


@pytest.mark.parametrize(
    "arguments, nearest", [(["trian"], "train"), (["datalist", "--dataset_di", "x"], "--dataset_dir")]
)
def test_a_misspelt_word_ends_the_command_with_code_1_and_the_nearest(arguments, nearest, command):
    result = command("scripts", *arguments)
    assert result.returncode == 1
    assert f"{nearest}?" in result.stderr and "Traceback" not in result.stderr


def test_a_folder_named_like_a_number_is_a_folder_for_datalist(cohort, type_in, monkeypatch):
    (cohort / "data").rename(cohort / "2021")
    monkeypatch.chdir(cohort)
    type_in(choose, "datalist", "--dataset_dir", "2021", "--output", "new.json", "--folds", "3")
    assert len(json.loads((cohort / "new.json").read_text())["training"]) == 6


def test_a_folder_named_like_a_number_is_a_folder_for_predict(type_in, monkeypatch):
    lines = []
    monkeypatch.setattr(main, "run_line", lambda line, lean: lines.append(line))
    monkeypatch.chdir(BUNDLE)
    type_in(choose, "predict", "--dataset_dir", "2021", "--output_dir=1e3", "--mirror", "False", "--ckpt_path", "$@x")
    start = [sys.executable, "-m", "monai.bundle", "run", "evaluating"]
    assert lines[0][:7] == [*start, "--config_file", "['configs/inference.yaml']"]
    options = command_line_options(lines[0])
    read = {key: options[key] for key in ("dataset_dir", "output_dir", "mirror", "ckpt_path")}
    assert read == {"dataset_dir": "2021", "output_dir": "1e3", "mirror": "False", "ckpt_path": "$@x"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "full_resolution", "--t2", "*_w.nii.gz"], True),
        (["--method", "full_resolution,/mine.yaml"], False),
        (["--label_map::transforms::1::keys", "pred"], False),
        (["--code_dir", "mine"], False),
    ],
)
def test_a_prediction_is_lean_where_no_code_is_a_users(options, expected, type_in, monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr(main, "run_line", lambda line, lean: chosen.append(lean))
    monkeypatch.chdir(BUNDLE)
    (tmp_path / "mine.yaml").write_text("overlap: 0.5\n")
    own = [option.replace("/mine", f"{tmp_path}/mine") for option in options]
    type_in(choose, "predict", "--dataset_dir", "DIR", "--output_dir", "OUT", *own)
    assert chosen == [expected]


def test_a_lean_run_has_monai_and_ignite_without_what_no_label_map_needs(tmp_path, capfd):
    (tmp_path / "probe.py").write_text(
        "import sys, monai.bundle, monai.engines, monai.handlers\n"
        "from ignite.handlers import Checkpoint\n"
        "print(sys.argv[1:], *sorted({'mlflow', 'pandas', 'torch.distributed.fsdp', 'ignite'} & {\n"
        "    name for name, module in sys.modules.items() if module}))\n"
    )
    path = os.pathsep.join([str(BUNDLE), str(tmp_path)])
    subprocess.run(
        [sys.executable, "-m", "scripts.launch", "--lean", "probe", "a"],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    assert capfd.readouterr().out == "['a'] ignite\n"


def test_ctrl_c_while_a_command_starts_ends_it_with_a_word(tmp_path):
    (tmp_path / "probe.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(BUNDLE), str(tmp_path)])
    code = "from scripts.workflow import run_line; import sys; sys.exit(run_line([sys.executable, '-m', 'probe']))"
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (130, "Stopped.\n")


def test_a_home_is_found_in_options_of_any_name(type_in, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    type_in(lambda: run_command(act_on_anything), "--pred=~/a", "--b", "~/c", "--d", "e~")
    assert calls == [("/somewhere/a", {"b": "/somewhere/c", "d": "e~"})]


def test_overlays_are_found_by_name_or_path(monkeypatch, tmp_path):
    monkeypatch.chdir(BUNDLE)
    (tmp_path / "mine.yaml").write_text("overlap: 0.5\n")
    files = config_files("train", f"student_alone,{tmp_path}/mine.yaml")
    assert files == ["configs/train.yaml", "configs/student_alone.yaml", f"{tmp_path}/mine.yaml"]
    with pytest.raises(UserError, match=r"'studnt'.*student_alone"):
        config_files("train", "studnt")


def test_several_processes_are_started_by_torchrun(type_in, monkeypatch):
    lines = []
    monkeypatch.setattr(main, "run_line", lambda line, lean: lines.append(line))
    monkeypatch.chdir(BUNDLE)
    type_in(choose, "train", "--dataset_dir", "DIR", "--datalist", "FILE", "--processes", "2", "--epochs", "3")
    assert lines[0][2:6] == ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    options = command_line_options(lines[0])
    assert options["config_file"] == "['configs/train.yaml', 'configs/multi_gpu_train.yaml']"
    assert (options["dataset_dir"], options["datalist"], options["epochs"]) == ("DIR", "FILE", "3")


def test_a_command_is_printed_and_its_exit_code_passed_on(capfd):
    assert run_line([sys.executable, "-c", "print('done'); raise SystemExit(3)"]) == 3
    assert capfd.readouterr().out == "python -c \"print('done'); raise SystemExit(3)\"\ndone\n"


def test_the_help_of_train_names_every_overlay():
    overlays = {path.stem for path in (BUNDLE / "configs").glob("*.yaml")}
    others = {"train", "evaluate", "inference", "paper_inference", "multi_gpu_train"}  # which no one gives as a method
    named = re.search(r"separated by commas: (.*?);", main.train.__doc__, re.DOTALL)[1]
    assert set(re.findall(r"\w+", named)) == overlays - others
