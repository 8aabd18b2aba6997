"""Oedema that T1ce students miss: how much of it there is, who finds it, and at what price.

python experiments/missed.py --truth DIR --missed_by "OUT/alone_s[01]/fold_0"
  --runs "alone=OUT/alone_s2/fold_0,distilled=OUT/distilled_s*/fold_0"

Label maps of evaluations, against the truth in DIR. Missed is oedema that every run of ``missed_by`` takes for
background. Of each run: the share of it that is found (as any tumour), and the voxels that are falsely taken for
tumour, in volumes of the patient's tumour. Of several runs of a name, such as seeds, each patient's mean is taken.
Runs that share start or patches with those of ``missed_by``, such as the same seed, miss more of it: compare others.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.evaluation.pairs import Pair, read_volumes
from scripts.evaluation.run_paths import named_runs
from scripts.evaluation.summary import estimate
from scripts.faults import FileFault
from scripts.files import format_table
from scripts.folders.map_files import find_label_maps
from scripts.labels import CLASSES

__all__ = ["missed"]

OEDEMA = CLASSES.index("ED")


def missed(truth: str, missed_by: str, runs: str) -> None:
    """Print means over the patients with 95% intervals.

    Raises:
        UserError: if no folder matches, a patient has no truth, or files do not fit together.
    """
    real = find_label_maps(truth, "truth")
    students = label_maps(missed_by)
    named = {name: label_maps(pattern) for name, pattern in named_runs(runs).items()}
    cases = list(students[0])
    others = [(f"a run of {name}", run) for name, folders in named.items() for run in folders]
    sources = [(f"truth {truth}", real), *((f"a run of {missed_by}", run) for run in students), *others]
    shares, found, false = [], {name: [] for name in named}, {name: [] for name in named}
    for case in cases:
        if lacking := [where for where, maps in sources if case not in maps]:
            raise UserError(f"{lacking[0]} has no label map of {case}: give runs, and a truth, of the same patients.")
        label, taken = tumour_of([run[case] for run in students], real[case])
        oedema = label == OEDEMA
        left = oedema & ~np.any(taken, axis=0)
        shares.append([left.sum(), oedema.sum()])
        for name, folders in named.items():
            _, taken = tumour_of([run[case] for run in folders], real[case])
            if label.any():
                false[name].append(np.mean([(one & (label == 0)).sum() / (label > 0).sum() for one in taken]))
            if left.any():
                found[name].append(np.mean([one[left].mean() for one in taken]))
    counts = np.array(shares)
    with_oedema = counts[counts[:, 1] > 0]
    print(
        f"Missed of oedema, {len(cases)} patients: {text(with_oedema[:, 0] / with_oedema[:, 1])} of a patient's, "
        f"{counts[:, 0].sum() / counts[:, 1].sum():.2f} of all voxels."
    )
    rows = [[name, text(found[name]), text(false[name])] for name in named]
    print(format_table([["", "of it found", "false voxels, in volumes of the tumour"], *rows]))


def label_maps(pattern: str) -> list[Mapping[str, Path]]:
    """Label maps by case, of each folder that matches."""
    folders = sorted(glob.glob(pattern))
    if not folders:
        raise UserError(f"no folder matches {pattern}: give the output folders of evaluated runs.")
    return [find_label_maps(folder, "runs") for folder in folders]


def tumour_of(paths: Sequence[Path], truth: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The truth in classes, and what each label map takes for tumour, on the truth's grid."""
    try:
        pairs = [read_volumes(Pair(path.name, path, truth), Meaning(), Meaning()) for path in paths]
    except FileFault as error:
        raise UserError(f"{error.path}: {error}: {error.remedy}.") from error
    return pairs[0][1].voxels, [predicted.voxels > 0 for predicted, _ in pairs]


def text(values: Sequence[float] | np.ndarray) -> str:
    mean, low, high, _ = estimate(np.asarray(values, float))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    run_command(missed)
