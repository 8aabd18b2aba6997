"""MONAI's workflows as commands: build the command and run it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from scripts.documents import check_form, correction
from scripts.errors import UserError

TRAINING = {"train", "validate", "cases", "teachers", "fusion", "loss", "segmentation", "soft_target", "confidence"}
PATH = re.compile(r".*_dir|.*_path|datalist|pretrained|targets")
NO_PATH, RELATIVE = re.compile(r"[@%]|\$\w*([/\\]|$)"), re.compile(r".[@%](#|::){2}")  # code; a key further up
TYPED = "SCRIPTS_TYPED"  # variable by which a command tells the command that it starts what the user typed
KILLED = (
    "The command was killed, as systems do where memory is full: free some, or give it less to do (docs/faq.md, Out of "
    "memory), then run it again (a training with --resume auto)."
)
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a run that a signal stopped


def workflow_line(run_id: str, files: Sequence[str], options: Mapping[str, Any], processes: int = 1) -> list[str]:
    """The command ``python -m monai.bundle run RUN_ID`` as a list of words, to be run in the bundle's folder.

    Args:
        run_id: training or evaluating.
        files: the config files, in order.
        options: value by key of the config.
        processes: number of processes; torchrun starts them if there are several.
    """
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    words = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", *launcher, "monai.bundle", "run", run_id, "--config_file", str(list(files)), *words]


def config_files(first: str, overlays: str) -> list[str]:
    """Paths of a config and of the overlays on it.

    Args:
        first: the config, by name.
        overlays: names of files in configs/ or paths, separated by commas.

    Raises:
        UserError: if there is no such file.
    """
    names = [first, *dict.fromkeys(filter(None, map(str.strip, overlays.split(","))))]
    files = [name if name.endswith((".yaml", ".json")) else f"configs/{name}.yaml" for name in names]
    if first == "inference":  # a method may need another preprocessing, and none of its other keys
        own = [file.replace(".yaml", "_inference.yaml") for file in files]
        files = [here if Path(here).is_file() else file for file, here in zip(files, own)]
    for name, path in zip(names, files):
        if not Path(path).is_file():
            stems = {file.stem for file in Path("configs").glob("*.yaml")} - {"train", "inference", "evaluate"}
            known = ", ".join(sorted(stem for stem in stems if not stem.endswith("_inference")))
            raise UserError(f"method is {name!r}, but {path} does not exist: give a path, or one of {known}.")
    return files


def check_keys(files: Sequence[str], options: Mapping[str, Any]) -> None:
    """Merge config files and options as MONAI does, which ends in a traceback where ``a::b`` has no part a.

    Raises:
        UserError: names the file or option, the key, and one that is similar; or a path that MONAI would take
            for code or for another key, as a variable that the shell did not know.
    """
    config: dict[str, Any] = {}
    for path in files:
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist: give its path relative to the bundle's folder.")
        try:
            with open(path, encoding="utf-8") as file:
                overlay = KeysOfMonai(file).get_single_data()
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): correct this file.") from error
        if overlay is None:
            raise UserError(f"{path} is empty: write keys into it, or leave it out.")
        check_form(overlay, {}, path)
        for key, value in overlay.items():
            set_key(config, f"{path}: {key}", str(key), value)
    for key, value in options.items():
        if PATH.fullmatch(key) and NO_PATH.match(str(value)) and value != "$None":
            raise UserError(f"--{key} is {str(value)!r}, which MONAI takes for code, expected a path: write ./{value}.")
        if RELATIVE.search(str(value)) and str(value)[0] != "$":
            raise UserError(f"--{key} is {str(value)!r}, in which MONAI takes @## for a key, expected none: rename it.")
        set_key(config, f"--{key}", key, value)


class KeysOfMonai(yaml.SafeLoader):
    """PyYAML's SafeLoader, which rejects << (unknown to MONAI's) and a key that stands twice: the last would count."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in known or key.value == "<<":
                problem = "MONAI does not merge by <<" if key.value == "<<" else f"{key.value} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            known.add(key.value)
        return node


def set_key(config: Any, name: str, key: str, value: Any) -> None:
    """Set ``a::b`` in a config. Raises UserError for a part that does not exist, or has no parts."""
    *path, last = re.split("::|#", key.lstrip("+~"))
    whole = config
    for depth, step in enumerate([*path, last]):
        parts = {str(place): part for place, part in enumerate(config)} if isinstance(config, list) else config
        if not isinstance(parts, dict):
            before = "::".join(path[:depth])
            raise UserError(f"{name}: {before} is {config!r} in this config, so it has no {step}: leave this key out.")
        if depth < len(path):
            if step not in parts:
                gone = "" if name.startswith("--") else ", or give this overlay before the one that took it away"
                near = correction(step, parts, f": leave it out{gone}.")
                if "train" not in whole and step in TRAINING:
                    near = ", which is for prediction: give single keys (docs/train.md, Methods), not this overlay."
                raise UserError(f"{name}: there is no {'::'.join(path[: depth + 1])} in this config{near}")
            config = parts[step]
    if isinstance(config, dict) and not key.startswith("+"):
        config[last] = value


def shown(text: str) -> str:
    """A word as a person would type it: in double quotes where it holds single ones."""
    plain = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if plain else shlex.quote(text)


def command_as_typed() -> str | None:
    """The command that the user typed, ``python -m scripts ...`` or MONAI's; None where another program called."""
    return os.environ.get(TYPED) or own_command(r"scripts|monai[/\\]bundle")


def own_command(module: str) -> str | None:
    """The command of this process, ``python -m MODULE ...`` with its options; None if it runs none of these modules."""
    own = re.search(rf"({module})[/\\]__main__\.py$", sys.argv[0])
    name = re.sub(r"[/\\]", ".", own[1]) if own else ""
    return " ".join(map(shown, ["python", "-m", name, *sys.argv[1:]])) if own else None


def run_line(line: Sequence[str], lean: bool = False) -> int:
    """The exit code of a command, which is printed and run in its own process; ``lean`` as in launch.py.

    If this process is interrupted or terminated, it passes the signal on and waits for the command's end. Otherwise a
    second run could write to the same folder at the same time. The exit code is then the signal's, also where torchrun,
    which knows no such codes, gives 1.
    """
    print(" ".join(map(shown, ["python", *line[1:]])), flush=True)
    typed = command_as_typed()
    environment = {"PYTHONIOENCODING": ":backslashreplace"} | os.environ | ({TYPED: typed} if typed else {})
    passed: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        if process:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        launch = ["scripts.launch", *["--lean"] * lean] if line[1] == "-m" else []
        process = subprocess.Popen([*line[:2], *launch, *line[2:]], env=environment)
        for number in passed:  # they came before the process was there
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if passed and code == 1:
        return 128 + passed[0]
    if code == -signal.SIGKILL:
        print(KILLED, file=sys.stderr)
    return code if code >= 0 else 128 - code
