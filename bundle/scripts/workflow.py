"""MONAI's workflows as commands: build the command and run it."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue

from scripts.command import nearest
from scripts.errors import UserError

__all__ = ["check_keys", "run_line", "workflow_line"]

TEXT = [  # keys whose value is text, even if it looks like a number
    "dataset_dir",
    "datalist",
    "output_dir",
    "ckpt_dir",
    "cache_dir",
    "pretrained",
    "run_name",
    "mlflow_experiment",
    "mlflow_uri",
]


def workflow_line(run_id: str, files: Sequence[str], options: Mapping[str, Any], processes: int = 1) -> list[str]:
    """The command ``python -m monai.bundle run RUN_ID`` as a list of words, to be run in the bundle's folder.

    Args:
        run_id: training or evaluating.
        files: the config files, in order.
        options: value by key of the config.
        processes: number of processes; torchrun starts them if there are several.
    """
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    shown = [text for key, value in options.items() for text in (f"--{key}", quoted(key, str(value)))]
    return [sys.executable, "-m", *launcher, "monai.bundle", "run", run_id, "--config_file", str(list(files)), *shown]


def check_keys(files: Sequence[str], options: Mapping[str, Any]) -> None:
    """Merge config files and options as MONAI does, which ends in a traceback where ``a::b`` has no part a.

    Raises:
        UserError: names the file or option, the key, and the nearest key that exists.
    """
    config: dict[str, Any] = {}
    for path in files:
        try:
            overlay = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): correct this file.") from error
        for key, value in (overlay or {}).items():
            set_key(config, f"{path}: {key}", key, value)
    for key, value in options.items():
        set_key(config, f"--{key}", key, value)


def set_key(config: Any, name: str, key: str, value: Any) -> None:
    """Set ``a::b`` in a config. Raises UserError for a part that does not exist, or has no parts."""
    *path, last = re.split("::|#", key.lstrip("+~"))
    for depth, step in enumerate([*path, last]):
        parts = {str(place): part for place, part in enumerate(config)} if isinstance(config, list) else config
        if not isinstance(parts, dict):
            before = "::".join(path[:depth])
            raise UserError(f"{name}: {before} is {config!r} in this config, so it has no {step}: leave this key out.")
        if depth < len(path):
            if step not in parts:
                near = f"; did you mean {nearest(step, parts)}?" if parts else ": leave this key out."
                raise UserError(f"{name}: there is no {'::'.join(path[: depth + 1])} in this config{near}")
            config = parts[step]
    if isinstance(config, dict) and not key.startswith("+"):
        config[last] = value


def quoted(key: str, value: str) -> str:
    """The value as MONAI's command must get it, so that a folder named 2021 does not become a number."""
    return repr(value) if key in TEXT and DefaultParseValue(value) != value and value[:1] != "$" else value


def shown(text: str) -> str:
    """A word as a person would type it: in double quotes where it holds single ones."""
    plain = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if plain else shlex.quote(text)


def run_line(line: Sequence[str]) -> int:
    """The exit code of a command, which is printed and run in its own process.

    If this process is interrupted or terminated, the command is terminated too. Otherwise a second run could write to
    the same folder at the same time.
    """
    print(" ".join(map(shown, ["python", *line[1:]])), flush=True)
    with subprocess.Popen(line) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
