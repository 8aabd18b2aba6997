"""The table of what arms.py has run: every arm less the student alone, patient by patient, as Markdown.

python tests/benchmarks/arms_table.py --runs OUT/LIST [--fold 0] [--less alone]
  [--picture FILE.png] [--undrawn NAME,NAME]

Of several seeds of an arm each patient's mean is taken. What is subtracted is the mean over all seeds of ``less``,
whatever the seeds of the other; but a student of side_by_side.yaml (ARM/FORM) is compared with the one alone beside it,
ARM/alone, which had the same patches.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bundle"))

from scripts.command import run_command
from scripts.compare import mean_scores, paired_difference
from scripts.errors import UserError
from scripts.figures import COLOURS
from scripts.labels import TABLE_ORDER
from scripts.records import check_output
from scripts.summary import Estimate, Scores, cell

__all__ = ["arms_table"]

COLUMNS = [(region, metric) for metric in ("dice", "hd95") for region in TABLE_ORDER]
BAR = 0.03  # of whole tumour, what we asked of a winner


def arms_table(
    runs: str, fold: int = 0, less: str = "alone", picture: str | None = None, undrawn: str | Sequence[str] = ()
) -> None:
    """Print it, the arm of ``less`` itself first; ``picture`` draws the Dice of all arms but those ``undrawn``.

    Raises:
        UserError: if nothing of ``less`` has been scored, or arms score other patients than it.
    """
    if picture:
        check_output(picture, "picture", ".png")
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
    rows: dict[str, dict[tuple[str, str], Estimate]] = {}
    for arm, table in tables.items():
        if table.cases != base.cases:
            raise UserError(f"{table.path} and {base.path} score other patients: evaluate both on the same fold.")
        beside = f"{Path(arm).parent}/{less}"
        own = base if arm == beside else tables.get(beside, base)
        if arm != less:
            rows[arm] = differences(table, own)
            cells = [cell(metric, rows[arm][region, metric]) for region, metric in COLUMNS]
            print(f"| {arm} | {len(scored[arm])} | {' | '.join(cells)} |")
    if picture:
        hidden = undrawn.split(",") if isinstance(undrawn, str) else undrawn  # fire splits at commas
        drawn = {arm: row for arm, row in rows.items() if arm not in hidden}
        draw(drawn, {arm: len(folders) for arm, folders in scored.items()}, less, picture)


def differences(other: Scores, base: Scores) -> dict[tuple[str, str], Estimate]:
    return {
        (region, metric): paired_difference(other.column(region, metric), base.column(region, metric)).difference
        for region, metric in COLUMNS
    }


def draw(
    rows: Mapping[str, Mapping[tuple[str, str], Estimate]], seeds: Mapping[str, int], less: str, picture: str
) -> None:
    """A line an arm: mean and interval of each region; the bar dashed. Larger differences than 0.12 lie outside."""
    matplotlib.use("Agg")
    order = sorted(rows, key=lambda arm: rows[arm]["WT", "dice"].mean)
    figure, axes = plt.subplots(1, 3, figsize=(10, 0.24 * len(order) + 1), sharey=True, layout="constrained")
    for axis, region in zip(axes, TABLE_ORDER):
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axvline(BAR if region == "WT" else -0.005, color="grey", linewidth=0.8, linestyle="--")
        for height, arm in enumerate(order):
            mean, low, high, _ = rows[arm][region, "dice"]
            colour = COLOURS[0] if seeds[arm] > 1 else COLOURS[1]
            axis.plot([low, high], [height, height], color=colour, linewidth=1.5)
            axis.plot(mean, height, "o", color=colour, markersize=4)
        axis.set(xlim=(-0.12, 0.12), title=f"{region} Dice less {less}")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(order)), [f"{arm.split('/')[-1]} ({seeds[arm]})" for arm in order], fontsize=8)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run_command(arms_table)
