"""The mean of the weights of several students of one architecture, such as two stages of one training.

python experiments/mean_weights.py --ckpt_paths A.pt,B.pt --output MEAN.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.run_paths import run_paths
from scripts.files import replacing
from scripts.method.weights import read_weights


def mean_weights(ckpt_paths: str, output: str) -> None:
    """Write the mean of each weight to ``output``, which works if the students have a common start and are still alike.

    Raises:
        UserError: if a file is missing or holds no weights, or other weights than the first.
    """
    paths = run_paths(ckpt_paths)
    students = [read_weights(path) for path in paths]
    shapes = [{name: tuple(weight.shape) for name, weight in student.items()} for student in students]
    if others := [path for path, shape in zip(paths, shapes) if shape != shapes[0]]:
        raise UserError(f"{others[0]} holds other weights than {paths[0]}: give students of one architecture.")
    mean = {
        name: torch.stack([student[name] for student in students]).mean(dim=0) if first.is_floating_point() else first
        for name, first in students[0].items()
    }
    with replacing(Path(output)) as partial:
        torch.save(mean, partial)
    print(f"mean of {len(paths)} -> {output}")


if __name__ == "__main__":
    run_command(mean_weights)
