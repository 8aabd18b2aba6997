"""What students know and what they dare: how well they rank voxels of the whole tumour, and how many they take.

python experiments/ranking.py --dataset_dir DIR --datalist FILE --runs "alone=OUT_A/fold_*,distilled=OUT_B/fold_*"
  [--output FILE.csv] [--KEY VALUE ...]

The held-out patients of each fold, in the network's grid, by P(tumour) of the voxels of the brain: average precision,
which has no threshold, and Dice, at 0.5 and at the threshold that is best on the other folds' patients (0.5 where there
are none). A run's folder ends in fold_K, or its fold is 0; of several runs of a name and fold, such as seeds
(OUT_s*/fold_*), each patient's mean is taken. KEY is any of train.yaml, such as student_widths.
"""

from __future__ import annotations

import copy
import glob
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from sklearn.metrics import average_precision_score
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.run_paths import named_runs
from scripts.evaluation.summary import estimate
from scripts.files import check_output, format_table, write_table
from scripts.method.weights import load_weights

__all__ = ["Ranking", "ranking"]

logger = logging.getLogger(__name__)

BUNDLE = Path(sys.path[0])
THRESHOLDS = [step / 20 for step in range(1, 20)]
HALF = THRESHOLDS.index(0.5)


class Ranking(NamedTuple):
    """Of one patient: average precision, and Dice at each of THRESHOLDS."""

    precision: float
    dice: np.ndarray


def ranking(dataset_dir: str, datalist: str, runs: str, output: str | None = None, **options: str) -> None:
    """Print means with 95% intervals, and of every other name the difference to the first.

    Raises:
        UserError: if no run matches, or the names have other folds.
    """
    if output:
        check_output(output, "output", ".csv")
    folders = {name: folders_by_fold(pattern) for name, pattern in named_runs(runs).items()}
    folds = {name: sorted(found) for name, found in folders.items()}
    if len({str(found) for found in folds.values()}) > 1:
        raise UserError(f"the runs have the folds {folds}: give the same folds of each name.")
    changed = {key: DefaultParseValue(value) for key, value in options.items()}
    scores: dict[str, dict[tuple[int, str], Ranking]] = {name: {} for name in folders}
    for fold in next(iter(folds.values())):
        config = {"dataset_dir": dataset_dir, "datalist": datalist, "fold": fold, **changed}
        for case, name, score in rank(config, {name: found[fold] for name, found in folders.items()}):
            scores[name][fold, case] = score
        logger.info(f"Fold {fold} is ranked.")
    columns = {name: columns_of(found) for name, found in scores.items()}
    first = columns[next(iter(columns))]
    rows = [["", "average precision", "minus the first", "Dice at 0.5", "minus", "at its own threshold", "minus"]]
    for name, own in columns.items():
        pairs = [(text(own[key]), text(own[key] - first[key]) if own is not first else "") for key in own]
        rows.append([name, *(cell for pair in pairs for cell in pair)])
    print(format_table(rows))
    if output:
        keys = list(scores[next(iter(scores))])
        table = [
            {"run": name, "fold": fold, "case": case, **{key: f"{own[key][index]:.6f}" for key in own}}
            for name, own in columns.items()
            for index, (fold, case) in enumerate(keys)
        ]
        write_table(Path(output), table)


def folders_by_fold(pattern: str) -> dict[int, list[Path]]:
    """Folders that match, by the fold K of their last part fold_K; 0 where that has another name."""
    folders: dict[int, list[Path]] = {}
    for folder in sorted(map(Path, glob.glob(pattern))):
        found = re.fullmatch(r"fold_(\d+)", folder.name)
        folders.setdefault(int(found[1]) if found else 0, []).append(folder)
    if not folders:
        raise UserError(f"no folder matches {pattern}: give the output folders of evaluated runs.")
    return folders


def rank(config: Mapping[str, Any], folders: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, str, Ranking]]:
    """Case, name and score of each held-out patient; of several runs the mean."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.yaml")
    settings = {"bundle_root": str(BUNDLE), "device": "$torch.device('cpu')", "cache": "none", "num_workers": 0}
    # no teacher is built:
    settings |= {"cases::training": False, "cases::teachers": {}, "teacher_inputs": [], "teacher_images": []}
    parser.update({**settings, **config})
    dataset, inferer = (parser.get_parsed_content(f"validate::{key}") for key in ("dataset", "inferer"))
    empty = parser.get_parsed_content("network_def")
    networks = {name: [trained(empty, folder) for folder in found] for name, found in folders.items()}
    for item in dataset:
        image = torch.as_tensor(item["image"])[None].float()
        truth = torch.as_tensor(item["label"])[0].numpy() > 0
        brain = (image[0] != 0).any(dim=0).numpy()
        for name, members in networks.items():
            each = []
            for network in members:
                with torch.no_grad():
                    tumour = 1 - inferer(image, network).float().softmax(dim=1)[0, 0].numpy()
                each.append(score(tumour, truth, brain))
            mean = Ranking(np.mean([one.precision for one in each]), np.mean([one.dice for one in each], axis=0))
            yield item["case"], name, mean


def trained(empty: nn.Module, folder: Path) -> nn.Module:
    network = copy.deepcopy(empty)
    load_weights(network, str(folder / "models" / "model.pt"))
    return network.eval()


def score(tumour: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> Ranking:
    """P(tumour), label and brain of one volume (H, W, D)."""
    taken = [tumour > threshold for threshold in THRESHOLDS]
    dice = [2 * (one & truth).sum() / max(one.sum() + truth.sum(), 1) for one in taken]
    return Ranking(float(average_precision_score(truth[brain], tumour[brain])), np.array(dice))


def columns_of(scores: Mapping[tuple[int, str], Ranking]) -> dict[str, np.ndarray]:
    """A value of each patient by column; the threshold is chosen on the other folds' patients."""
    dice = np.stack([one.dice for one in scores.values()])  # (patients, thresholds)
    folds = np.array([fold for fold, _ in scores])
    best = {fold: int(dice[folds != fold].mean(axis=0).argmax()) for fold in set(folds)} if len(set(folds)) > 1 else {}
    own = [row[best.get(fold, HALF)] for row, fold in zip(dice, folds)]
    precision = np.array([one.precision for one in scores.values()])
    return {"average_precision": precision, "dice": dice[:, HALF], "dice_own_threshold": np.array(own)}


def text(values: np.ndarray) -> str:
    mean, low, high, _ = estimate(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    run_command(ranking)
