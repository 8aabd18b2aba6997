"""The table of what arms.py has run: every arm minus the student alone, patient by patient, as Markdown.

python experiments/arms_table.py --runs OUT/LIST[,OUT/LIST] [--baseline alone]
  [--picture FILE.png] [--undrawn NAME,NAME] [--bar 0.03] [--span 0.12]

All folds of all lists are one table. An arm of several seeds counts with each patient's mean, on the patients that all
of its seeds have scored. What is subtracted is the mean over all seeds of ``baseline``, whatever the seeds of the other
arm, on the patients that both have scored. So seeds, arms and the baseline need not be finished.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.compare import mean_of_seeds, paired_columns, paired_difference, pooled
from scripts.evaluation.patients import count_patients
from scripts.evaluation.run_paths import run_paths
from scripts.evaluation.summary import Estimate, Scores, cell, read_scores
from scripts.files import check_output
from scripts.labels import SERIES_COLOURS, TABLE_ORDER

METRICS = {"dice": "{}", "lesion_dice": "lesion-wise {}", "hd95": "HD95 {} (mm)"}
COLUMNS = [(region, metric) for metric in METRICS for region in TABLE_ORDER]


def arms_table(
    runs: str,
    baseline: str = "alone",
    picture: str | None = None,
    undrawn: str = "",
    bar: float = 0.03,
    span: float = 0.12,
) -> None:
    """Print it, the arm of ``baseline`` itself first; ``picture`` draws the Dice of all arms but those ``undrawn``.

    ``bar`` is the gain in whole tumour that was asked for, ``span`` the largest difference that the picture shows.

    Raises:
        UserError: if nothing of ``baseline`` has been scored by all of its seeds.
    """
    if picture:
        check_output(picture, "picture", ".png")
    seeds = {arm: list(by_seed.values()) for arm, by_seed in scored_runs(run_paths(runs)).items()}
    if baseline not in seeds:
        raise UserError(f"{runs} holds no metrics.csv of {baseline}: run arms.py first, or give another.")
    base = mean_of_shared(seeds[baseline])
    if not base.values:
        raise UserError(f"the seeds of {baseline} in {runs} have no patient in common: run arms.py to the end.")
    heads = [METRICS[metric].format(region) for region, metric in COLUMNS]
    print(f"| minus {baseline} | patients | seeds | {' | '.join(heads)} |")
    print(f"|{'---|' * (3 + len(heads))}")
    summary = base.summary
    itself = [cell(metric, summary[region][metric]) for region, metric in COLUMNS]
    count = count_patients(base.cases, base.patient)
    print(f"| ({baseline} itself) | {count} | {len(seeds[baseline])} | {' | '.join(itself)} |")
    rows: dict[str, dict[tuple[str, str], Estimate]] = {}
    for arm in sorted(seeds.keys() - {baseline}):
        table = mean_of_shared(seeds[arm])
        cases = sorted(set(table.cases) & set(base.cases))
        if not cases:
            print(f"| {arm} | 0 | {len(seeds[arm])} |{'  |' * len(COLUMNS)}")
            continue
        rows[arm] = differences(table, base, cases)
        cells = [cell(metric, rows[arm][region, metric]) for region, metric in COLUMNS]
        print(f"| {arm} | {count_patients(cases, base.patient)} | {len(seeds[arm])} | {' | '.join(cells)} |")
    if picture:
        drawn = {arm: row for arm, row in rows.items() if arm not in undrawn.split(",")}
        draw(drawn, {arm: len(tables) for arm, tables in seeds.items()}, baseline, picture, bar, span)


def scored_runs(lists: Sequence[str]) -> dict[str, dict[str, Scores]]:
    """The scores of all folds of these lists, by arm and seed."""
    found: dict[str, dict[str, list[Scores]]] = {}
    for path in sorted(path for folder in lists for path in Path(folder).glob("*_s*/*/metrics.csv")):
        arm, _, seed = path.parent.parent.name.rpartition("_s")
        found.setdefault(arm, {}).setdefault(seed, []).append(read_scores(path))
    return {arm: {seed: pooled(tables) for seed, tables in by_seed.items()} for arm, by_seed in found.items()}


def mean_of_shared(tables: Sequence[Scores]) -> Scores:
    """Each case's mean over the seeds of an arm, of the cases that all of them have."""
    shared = set.intersection(*(set(table.cases) for table in tables))
    kept = [{key: scores for key, scores in table.values.items() if key[0] in shared} for table in tables]
    return mean_of_seeds([replace(table, values=values) for table, values in zip(tables, kept)])


def differences(other: Scores, base: Scores, cases: Sequence[str]) -> dict[tuple[str, str], Estimate]:
    """The mean paired difference by region and metric."""
    return {
        (region, metric): paired_difference(*paired_columns(other, base, cases, region, metric)).difference
        for region, metric in COLUMNS
    }


def draw(
    rows: Mapping[str, Mapping[tuple[str, str], Estimate]],
    seeds: Mapping[str, int],
    baseline: str,
    picture: str,
    bar: float,
    span: float,
) -> None:
    """A line an arm: mean and interval of each region. Dashed: the bar, and for TC and ET 0.005 lost."""
    matplotlib.use("Agg")
    order = sorted(rows, key=lambda arm: rows[arm]["WT", "dice"].mean)
    figure, axes = plt.subplots(1, 3, figsize=(10, 0.24 * len(order) + 1), sharey=True, layout="constrained")
    for axis, region in zip(axes, TABLE_ORDER):
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axvline(bar if region == "WT" else -0.005, color="grey", linewidth=0.8, linestyle="--")
        for height, arm in enumerate(order):
            mean, low, high, _ = rows[arm][region, "dice"]
            colour = SERIES_COLOURS[0 if seeds[arm] > 1 else 1]
            axis.plot([low, high], [height, height], color=colour, linewidth=1.5)
            axis.plot(mean, height, "o", color=colour, markersize=4)
        axis.set(xlim=(-span, span), title=f"{region} Dice minus {baseline}")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(order)), [f"{arm} ({seeds[arm]})" for arm in order], fontsize=8)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run_command(arms_table)
