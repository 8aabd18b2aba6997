"""What an update of each arm of a plan costs, in turns: seconds, and how many times the student alone.

python tests/benchmarks/costs.py [--plan tests/benchmarks/arms.yaml] [--repeats 5]

One thread, two random patches of 64³, neither loader nor handlers; kept teachers have random weights. A form of
side_by_side.yaml is measured with its teachers and the student alone beside it, whose seconds are taken off.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from arms import BUNDLE, Run, make_run, read_plan  # before torch: it sets the number of threads
from measure import interleave
from side_by_side import MEASURED

import torch  # isort: skip
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from scripts.allocator import keep_freed_memory
from scripts.command import run_command
from scripts.labels import SEQUENCES
from scripts.summary import format_table

ALONE = "alone"


def costs(plan: str = str(Path(__file__).with_name("arms.yaml")), repeats: int = 5) -> None:
    """Print a line for each arm and form."""
    torch.set_num_threads(1)
    keep_freed_memory("cpu")
    settings = read_plan(plan)
    with tempfile.TemporaryDirectory() as folder:
        updates = dict(contenders(settings, Path(folder)))
        seconds, _ = interleave(updates, repeats, warm_up=MEASURED)
    alone = np.array(seconds[ALONE])
    rows = [["arm", "s an update", "times alone"]]
    for name, values in seconds.items():
        own = np.array(values) - (alone if "/" in name else 0)
        rows.append([name, f"{np.median(own):.2f}", f"{np.median(own / alone):.1f}"])
    print(format_table(rows))


def contenders(settings: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Callable]]:
    """Names and updates: arms by their names, forms as ARM/FORM."""
    listed = next(iter(settings["lists"]))
    runs = {name: make_run(settings, Path(), folder / listed, name, seed=0, fold=0) for name in settings["arms"]}
    for run in runs.values():
        for teacher in run.after:
            path = teacher / "models" / "model.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = parser_of(runs[teacher.parent.name.removesuffix("_s0")]).get_parsed_content("network_def")
            torch.save(weights.state_dict(), path)
    for name, run in runs.items():
        for form in settings["arms"][name].get("forms", [None]):
            yield (f"{name}/{form}", update(run, forms=[form])) if form else (name, update(run))


def parser_of(run: Run, **changed: Any) -> ConfigParser:
    """The configuration of the run's training."""
    _, _, _, _, files, *options = run.waiting[0]
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / file) for file in yaml.safe_load(files)])
    given = {key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(options[::2], options[1::2])}
    parser.update({"bundle_root": str(BUNDLE), "device": torch.device("cpu"), **given, **changed})
    return parser


def update(run: Run, **changed: Any) -> Callable[[], object]:
    """One update of the run's networks, always on the same patches."""
    patches = {"train::dataloader": [None], "train::handlers": []}
    parser = parser_of(run, resume=False, **patches, **changed)
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
