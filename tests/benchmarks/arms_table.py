"""The table of what arms.py has run: every arm less the student alone, patient by patient, as Markdown.

python tests/benchmarks/arms_table.py --runs OUT/LIST [--fold 0] [--less alone]

Of several seeds of an arm each patient's mean is taken. What is subtracted is the mean over all seeds of ``less``,
whatever the seeds of the other; but a student of side_by_side.yaml (ARM/FORM) is compared with the one alone beside it,
ARM/alone, which had the same patches.
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
    tables = {arm: mean_scores(",".join(folders)) for arm, folders in scored.items()}
    base = tables[less]
    heads = [f"HD95 {region} (mm)" if metric == "hd95" else region for region, metric in COLUMNS]
    print(f"| less {less}, {len(base.cases)} patients | seeds | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}")
    summary = base.summary()
    itself = [cell(metric, summary[region][metric]) for region, metric in COLUMNS]
    print(f"| ({less} itself) | {len(scored[less])} | {' | '.join(itself)} |")
    for arm, table in tables.items():
        if table.cases != base.cases:
            raise UserError(f"{table.path} and {base.path} score other patients: evaluate both on the same fold.")
        beside = f"{Path(arm).parent}/{less}"
        own = base if arm == beside else tables.get(beside, base)
        if arm != less:
            print(f"| {arm} | {len(scored[arm])} | {' | '.join(differences(table, own))} |")


def differences(other: Scores, base: Scores) -> list[str]:
    return [
        cell(metric, paired_difference(other.column(region, metric), base.column(region, metric)).difference)
        for region, metric in COLUMNS
    ]


if __name__ == "__main__":
    run_command(arms_table)
