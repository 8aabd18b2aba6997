"""The report's page: its parts, and how they become one HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from scripts.report.figures import Chart
from scripts.report.titles import Column
from scripts.report.viewer import colour_tables

TEMPLATES = Path(__file__).parent / "page"
FACTS = {  # of a stage's JSON, in the order of the page
    "typed": "Command",
    "command": "Command, as MONAI runs it",
    "date": "Date (UTC)",
    "seed": "Seed",
    "revision": "Revision",
    "versions": "Versions",
    "machine": "Machine",
    "data": "Data",
    "weights": "Weights",
}


class Cell(NamedTuple):
    """What a cell shows, and the number to sort by."""

    text: str
    value: float | None = None


class Row(NamedTuple):
    """A line of a table. ``patient`` is the number of the patient whom a click opens; ``region`` filters lines."""

    head: Column
    cells: Sequence[Cell]
    patient: int | None = None
    region: str = ""


@dataclass
class Table:
    """Lines under headings. The first heading is that of the lines' heads."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    regions: Mapping[str, str] = field(default_factory=dict)  # titles by name, where lines are of regions


class Shown(NamedTuple):
    """A patient on the page: still pictures by title, and beside them scores, alerts and where the image is from."""

    name: str
    pictures: Mapping[str, bytes]
    table: Table
    alerts: Sequence[str]
    source: str
    kinds: frozenset[str]  # of its layers


@dataclass
class Page:
    """All that the page shows, from top to bottom.

    Args:
        title: of the page.
        subtitle: a line below it.
        alerts: sentences that a reader must not miss.
        picks: number of a patient by a text that says why to look at it; the first is opened.
        summaries: tables of means.
        patients: the table of all patients.
        charts: by heading.
        shown: all patients; their places are their numbers.
        records: what each stage recorded.
    """

    title: str
    subtitle: str
    alerts: Sequence[str]
    picks: Mapping[str, int]
    summaries: Sequence[Table]
    patients: Table
    charts: Mapping[str, Sequence[Chart]]
    shown: Sequence[Shown]
    records: Mapping[str, Mapping[str, Any] | None]

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of layers that any patient has."""
        return frozenset().union(*(item.kinds for item in self.shown))


def render(page: Page, inside: Mapping[int, str], scripts: Mapping[int, str]) -> str:
    """The page as HTML.

    Args:
        page: its parts.
        inside: scripts with volumes that stand in the page, by number of the patient.
        scripts: addresses of scripts beside the page, by number.
    """
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "flat": flat, "pretty": pretty}
    viewer: dict[str, Any] = {
        "patients": [item.name for item in page.shown],
        "first": next(iter(page.picks.values()), 0),
    }
    viewer |= {"scripts": dict(scripts), "colours": colour_tables()}
    library = (TEMPLATES / "niivue.umd.js.gz").read_bytes()
    template = environment.get_template("report.html")
    return template.render(page=page, inside=inside, viewer=viewer, library=library, fact_titles=FACTS)


def pretty(value: Any) -> str:
    """A nested value as indented JSON."""
    return json.dumps(value, indent=1)


def flat(value: Any) -> str:
    """A nested value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    return (", ".join(map(flat, value)) or "none") if isinstance(value, list) else str(value)
