"""What SECURITY.md promises: weights are data, dependencies have bounds, the server is not reachable from outside."""

import ast
import importlib.util
import re

import pytest
import torch
from packaging.requirements import Requirement

from conftest import BUNDLE, ROOT, bare_errors
from scripts.errors import UserError
from scripts.locking import FolderLock
from scripts.method.weights import load_weights

PROGRAMS = [*(BUNDLE / "scripts").rglob("*.py"), *(ROOT / "serving").glob("*.py"), *(ROOT / "experiments").glob("*.py")]


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_weights_are_loaded_as_data_everywhere():
    loads = [(path.name, options) for path in PROGRAMS for name, options in calls(path) if name == "torch.load"]
    assert len(loads) > 3
    assert not [name for name, options in loads if options.get("weights_only") != "True"]


def test_nothing_else_runs_code_from_files():
    """MONAI's CheckpointLoader, pickle, NumPy's pickles and YAML's objects are ways to do it."""
    unsafe = r"CheckpointLoader|allow_pickle\s*[:=]\s*True|weights_only\s*[:=]\s*False"
    texts = [*PROGRAMS, *(BUNDLE / "configs").glob("*.yaml")]
    assert not [path.name for path in texts if re.search(unsafe, path.read_text(), re.IGNORECASE)]
    names = {(path.name, name) for path in PROGRAMS for name, _ in calls(path)}
    bad = r"(pickle|joblib|dill|marshal)\.loads?|yaml\.(load|unsafe_load|full_load)|eval|exec"
    assert not [pair for pair in names if re.fullmatch(bad, pair[1])]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_weights_that_hold_code_are_named_and_do_not_run_it(tmp_path):
    torch.save({"weight": Evil(tmp_path / "was_here")}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt"), bare_errors():
        load_weights(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"))
    assert not (tmp_path / "was_here").exists()


def test_every_dependency_has_a_lower_and_an_upper_bound():
    tomllib = pytest.importorskip("tomllib", reason="new in Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["build-system"]["requires"], project["project"]["dependencies"]]
    lists += project["project"]["optional-dependencies"].values()
    for text in (text for one in lists for text in one if not text.startswith(project["project"]["name"])):
        operators = {part.operator for part in Requirement(text).specifier}
        assert operators == {"=="} or (operators & {">=", ">", "~="} and operators & {"<", "<=", "~="}), text


def test_the_server_listens_on_this_machine_alone_unless_asked(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("serve", ROOT / "serving" / "serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.nii.gz").touch()
    lines = []
    monkeypatch.setattr(serve, "stage", lambda app: None)
    monkeypatch.setattr(serve.os, "execve", lambda program, arguments, environment: lines.append(arguments))
    monkeypatch.setattr("sys.argv", ["serve.py", "--studies", f"{tmp_path}/studies", "--labels", f"{tmp_path}/labels"])
    serve.main()
    (line,) = lines
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert re.search(r"^HOST := 127\.0\.0\.1$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"\.lock"):
        FolderLock(str(tmp_path / "out"))
    assert not (tmp_path / "elsewhere").exists()
