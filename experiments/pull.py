"""How hard each term of the loss pulls the student at the end of a training, against its labels.

python experiments/pull.py --run OUT [--batches 8] [--KEY VALUE ...]

It takes the gradient of each term at the student's weights and prints two means over batches of training patients: its
length over that of the labels' gradient (at all resolutions together), and the cosine of the angle between the two.
OUT is the output_dir of a training that is done, by this version of the program. KEY is any of its config, such as
dataset_dir where the patients have moved.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.utils import set_determinism

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.files import format_table

__all__ = ["pull", "pulls"]

BUNDLE = Path(sys.path[0])
LABELS = "student"  # names of the labels' terms start so


def pull(run: str, batches: int = 8, **options: str) -> None:
    """Print a line for each term.

    Raises:
        UserError: if the run holds no training that is done.
    """
    record, path = Path(run) / "training.json", Path(run) / "models" / "checkpoint.pt"
    for file in (record, path):
        if not file.is_file():
            raise UserError(f"{file} does not exist: give the output_dir of a training that is done.")
    config = ConfigParser(json.loads(record.read_text())["configuration"])
    settings = {"bundle_root": str(BUNDLE), "cache": "none", "num_workers": 0, "resume": False}
    config.update({**settings, **{key: DefaultParseValue(value) for key, value in options.items()}})
    set_determinism(int(config["seed"]))
    network, loss, loader, prepare, confidence = (
        config.get_parsed_content(key)
        for key in ("network", "loss", "train::dataloader", "train::trainer::prepare_batch", "confidence")
    )
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["distillation"])
    if confidence is not None:
        confidence.load_state_dict(state["confidence"])
    loss.distilling = True
    network.train()
    found: dict[str, list[tuple[float, float]]] = {}
    device = next(network.parameters()).device
    for _, batch in zip(range(batches), loader):
        image, label, _, sequences = prepare(batch, device)
        terms = loss.of_batch(network(image, **sequences), label)
        for name, values in pulls(terms, list(network.student.parameters())).items():
            found.setdefault(name, []).append(values)
    rows = [[name, *(f"{value:.2f}" for value in np.mean(values, axis=0))] for name, values in found.items()]
    print(format_table([["term", "pull over the labels'", "cosine"], *rows]))


def pulls(terms: Mapping[str, torch.Tensor], weights: list[torch.Tensor]) -> dict[str, tuple[float, float]]:
    """Length over the labels', and cosine, of the gradient of each other term, and of these together.

    Terms that do not reach the student, such as the labels' terms of teachers, are left out. A batch without a label
    gives nothing.
    """
    supervised = [term for name, term in terms.items() if name.startswith(LABELS)]
    if not supervised:
        return {}
    labels = gradient(torch.stack(supervised).sum(), weights)
    others = {name: gradient(term, weights) for name, term in terms.items() if not name.startswith(LABELS)}
    others = {name: found for name, found in others.items() if found.any()}
    if others:
        others["together"] = torch.stack(list(others.values())).sum(dim=0)
    return {
        name: ((g.norm() / labels.norm()).item(), F.cosine_similarity(g, labels, dim=0).item())
        for name, g in others.items()
    }


def gradient(term: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    parts = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(w) if part is None else part).flatten() for part, w in zip(parts, weights)])


if __name__ == "__main__":
    run_command(pull)
