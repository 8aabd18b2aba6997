"""The table of what arms.py has run: every arm less the student alone, patient by patient, as Markdown.

python tests/benchmarks/arms_table.py --runs OUT/LIST [--fold 0] [--less alone]

Of several seeds of an arm each patient's mean is taken. What is subtracted is the mean over the seeds of ``less``,
whatever the seeds of the other.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bundle"))

from scripts.command import run_command
from scripts.compare import mean_scores, paired_difference
from scripts.errors import UserError
from scripts.labels import TABLE_ORDER
from scripts.summary import Scores, cell

__all__ = ["arms_table"]

COLUMNS = [(region, metric) for metric in ("dice", "hd95") for region in TABLE_ORDER]


def arms_table(runs: str, fold: int = 0, less: str = "alone") -> None:
    """Print it, the arm of ``less`` itself first.

    Raises:
        UserError: if nothing of ``less`` has been scored, or arms score other patients than it.
    """
    scored: dict[str, list[str]] = {}
    for path in sorted(Path(runs).glob(f"**/fold_{fold}/metrics.csv")):
        arm = re.sub(r"_s\d+", "", str(path.parent.parent.relative_to(runs)))  # ARM, or ARM/FORM side by side
        scored.setdefault(arm, []).append(str(path.parent))
    if less not in scored:
        raise UserError(f"{runs} holds no metrics.csv of {less} and fold {fold}: run arms.py first, or give another.")
    seeds = scored.pop(less)
    base = mean_scores(",".join(seeds))
    heads = [f"HD95 {region} (mm)" if metric == "hd95" else region for region, metric in COLUMNS]
    print(f"| less {less}, {len(base.cases)} patients | seeds | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}")
    summary = base.summary()
    itself = [cell(metric, summary[region][metric]) for region, metric in COLUMNS]
    print(f"| ({less} itself) | {len(seeds)} | {' | '.join(itself)} |")
    for arm, folders in scored.items():
        other = mean_scores(",".join(folders))
        if other.cases != base.cases:
            raise UserError(f"{other.path} and {base.path} score other patients: evaluate both on the same fold.")
        print(f"| {arm} | {len(folders)} | {' | '.join(differences(other, base))} |")


def differences(other: Scores, base: Scores) -> list[str]:
    return [
        cell(metric, paired_difference(other.column(region, metric), base.column(region, metric)).difference)
        for region, metric in COLUMNS
    ]


if __name__ == "__main__":
    run_command(arms_table)
