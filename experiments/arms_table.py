"""The table of what arms.py has run: every arm minus the student alone, patient by patient, as Markdown.

python experiments/arms_table.py --runs OUT/LIST [--fold 0] [--baseline alone]
  [--picture FILE.png] [--undrawn NAME,NAME]

An arm of several seeds counts with each patient's mean. What is subtracted is the mean over all seeds of
``baseline``, whatever the seeds of the other arm.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.compare import mean_scores, paired_difference
from scripts.evaluation.summary import Estimate, Scores, cell
from scripts.files import check_output
from scripts.labels import SERIES_COLOURS, TABLE_ORDER

__all__ = ["arms_table"]

COLUMNS = [(region, metric) for metric in ("dice", "hd95") for region in TABLE_ORDER]
BAR = 0.03  # of whole tumour, what we asked of a winner


def arms_table(
    runs: str, fold: int = 0, baseline: str = "alone", picture: str | None = None, undrawn: str | Sequence[str] = ()
) -> None:
    """Print it, the arm of ``baseline`` itself first; ``picture`` draws the Dice of all arms but those ``undrawn``.

    Raises:
        UserError: if nothing of ``baseline`` has been scored, or arms score other patients than it.
    """
    if picture:
        check_output(picture, "picture", ".png")
    scored: dict[str, list[str]] = {}
    for path in sorted(Path(runs).glob(f"*/fold_{fold}/metrics.csv")):
        arm = re.sub(r"_s\d+$", "", path.parent.parent.name)
        scored.setdefault(arm, []).append(str(path.parent))
    if baseline not in scored:
        raise UserError(
            f"{runs} holds no metrics.csv of {baseline} and fold {fold}: run arms.py first, or give another."
        )
    tables = {arm: mean_scores(",".join(folders)) for arm, folders in scored.items()}
    base = tables[baseline]
    heads = [f"HD95 {region} (mm)" if metric == "hd95" else region for region, metric in COLUMNS]
    print(f"| minus {baseline}, {len(base.cases)} patients | seeds | {' | '.join(heads)} |")
    print(f"|{'---|' * (2 + len(heads))}")
    summary = base.summary()
    itself = [cell(metric, summary[region][metric]) for region, metric in COLUMNS]
    print(f"| ({baseline} itself) | {len(scored[baseline])} | {' | '.join(itself)} |")
    rows: dict[str, dict[tuple[str, str], Estimate]] = {}
    for arm, table in tables.items():
        if table.cases != base.cases:
            raise UserError(f"{table.path} and {base.path} score other patients: evaluate both on the same fold.")
        if arm != baseline:
            rows[arm] = differences(table, base)
            cells = [cell(metric, rows[arm][region, metric]) for region, metric in COLUMNS]
            print(f"| {arm} | {len(scored[arm])} | {' | '.join(cells)} |")
    if picture:
        hidden = undrawn.split(",") if isinstance(undrawn, str) else undrawn  # fire splits at commas
        drawn = {arm: row for arm, row in rows.items() if arm not in hidden}
        draw(drawn, {arm: len(folders) for arm, folders in scored.items()}, baseline, picture)


def differences(other: Scores, base: Scores) -> dict[tuple[str, str], Estimate]:
    return {
        (region, metric): paired_difference(other.column(region, metric), base.column(region, metric)).difference
        for region, metric in COLUMNS
    }


def draw(
    rows: Mapping[str, Mapping[tuple[str, str], Estimate]], seeds: Mapping[str, int], baseline: str, picture: str
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
            colour = SERIES_COLOURS[0 if seeds[arm] > 1 else 1]
            axis.plot([low, high], [height, height], color=colour, linewidth=1.5)
            axis.plot(mean, height, "o", color=colour, markersize=4)
        axis.set(xlim=(-0.12, 0.12), title=f"{region} Dice minus {baseline}")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(order)), [f"{arm} ({seeds[arm]})" for arm in order], fontsize=8)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run_command(arms_table)
