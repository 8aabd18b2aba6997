"""What an update of each arm of a plan costs, in turns: seconds, and how many times the student alone.

python experiments/costs.py [--plan experiments/arms.yaml] [--repeats 5]

One thread, two random patches of 64³, neither loader nor handlers; kept teachers have random weights.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from arms import BUNDLE, Run, make_run, read_plan  # before torch: it sets the number of threads

import torch  # isort: skip
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from scripts.command import run_command
from scripts.device import keep_freed_memory
from scripts.errors import UserError
from scripts.files import format_table
from scripts.labels import SEQUENCES

sys.path.insert(0, str(BUNDLE.parent / "benchmarks"))

from measure import interleave

ALONE = "alone"


def costs(plan: str = str(Path(__file__).with_name("arms.yaml")), repeats: int = 5) -> None:
    """Print a line for each arm.

    Raises:
        UserError: if the plan has no student alone.
    """
    torch.set_num_threads(1)
    keep_freed_memory("cpu")
    settings = read_plan(plan)
    if ALONE not in settings["arms"]:
        raise UserError(f"{plan} has no arm {ALONE!r}, with which the others are compared: add it.")
    with tempfile.TemporaryDirectory() as folder:
        updates = dict(contenders(settings, Path(folder)))
        seconds, _ = interleave(updates, repeats)
    alone = np.array(seconds[ALONE])
    rows = [["arm", "s an update", "times alone"]]
    for name, values in seconds.items():
        rows.append([name, f"{np.median(values):.2f}", f"{np.median(np.array(values) / alone):.1f}"])
    print(format_table(rows))


def contenders(settings: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Callable]]:
    """Names of the arms, and their updates."""
    listed = next(iter(settings["lists"]))
    runs = {name: make_run(settings, Path(), folder / listed, name, seed=0, fold=0) for name in settings["arms"]}
    for run in runs.values():
        for teacher in run.after:
            path = teacher / "models" / "model.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = parser_of(runs[teacher.parent.name.removesuffix("_s0")]).get_parsed_content("network_def")
            torch.save(weights.state_dict(), path)
    for name, run in runs.items():
        yield name, update(run)


def parser_of(run: Run, stage: str = "training") -> ConfigParser:
    """The configuration of the run's training, or of its evaluation."""
    _, _, _, _, files, *options = next(command for command in run.waiting if command[2] == stage)
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / file) for file in yaml.safe_load(files)])
    given = {key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(options[::2], options[1::2])}
    parser.update({"bundle_root": str(BUNDLE), "device": torch.device("cpu"), **given})
    return parser


def update(run: Run) -> Callable[[], object]:
    """One update of the run's networks, always on the same patches."""
    parser = parser_of(run)
    parser.update({"train::dataloader": [None], "train::handlers": [], "distillation::patients": None, "gaps": False})
    set_determinism(0)
    trainer = parser.get_parsed_content("train::trainer")
    parser.get_parsed_content("loss").distilling = True
    size = parser["roi_size"]
    channels = parser["network_def::in_channels"]
    batch = {"image": torch.randn(2, channels, *size), "label": torch.randint(0, 4, (2, 1, *size), dtype=torch.uint8)}
    batch |= {name: torch.randn(2, 1, *size) for name in SEQUENCES}
    return functools.partial(trainer._iteration, trainer, batch)


if __name__ == "__main__":
    run_command(costs)
