"""A layout of MLflow's charts that compares runs, kept in the experiment, where a link opens it.

MLflow keeps a person's own layout in the browser. A shared one is a tag of the experiment, which this file writes.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from scripts.labels import REGION_NAMES

NAME = "mtcm_kd"
TAG = f"mlflow.sharedViewState.{NAME}"
COLUMNS = ("method", "teachers", "epochs", "training_patients", "fold", "seed")  # of the table of runs
TRAINING = {
    "loss": ["loss/total", "loss/student"],
    "validation Dice": [f"validation/dice/{name}" for name in REGION_NAMES],
}


def layout() -> dict[str, Any]:
    """MLflow's view state: columns of the table, and one section of charts before those that MLflow makes itself."""
    scores = [f"test/dice/{name}" for name in REGION_NAMES]
    bars = [chart("BAR", f"Dice, {name}", metricKey=f"test/dice/{name}") for name in REGION_NAMES]
    lines = [
        chart(
            "LINE", title, metricKey=metrics[0], selectedMetricKeys=metrics, xAxisKey="step", range={}, lineSmoothness=0
        )
        for title, metrics in TRAINING.items()
    ]
    differences = chart("DIFFERENCE", "Parameters and scores that differ", chartName="Runs difference view")
    differences |= {"compareGroups": ["Parameters", "Model metrics"], "showDifferencesOnly": True}
    return {
        "selectedColumns": [*(f"params.`{name}`" for name in COLUMNS), *(f"metrics.`{name}`" for name in scores)],
        "compareRunCharts": [*bars, *lines, differences],
        "compareRunSections": [
            {"uuid": NAME, "name": "Compare", "display": True, "isReordered": True, "isGenerated": False}
        ],
    }


def chart(kind: str, title: str, **more: Any) -> dict[str, Any]:
    """One chart of the section."""
    place = {"uuid": f"{NAME} {title}", "metricSectionId": NAME, "runsCountToCompare": 20}
    return {"type": kind, "displayName": title, "deleted": False, "isGenerated": False, **place, **more}


def share_layout(client: Any, experiment: str) -> None:
    """Keep the layout in an experiment that has none."""
    if TAG not in client.get_experiment(experiment).tags:
        client.set_experiment_tag(experiment, TAG, json.dumps(layout(), separators=(",", ":")))


def layout_link(uri: str, experiment: str) -> str:
    """Where a browser shows the layout: of a server, or of a store after the command that serves it."""
    if not uri.startswith("http"):
        command = f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
        return f"{layout_link('http://127.0.0.1:5000', experiment)} after: {command}"
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={NAME}&compareRunsMode=CHART"
