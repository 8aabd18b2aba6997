"""The sections of the report's page, as HTML."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from scripts.evaluation.summary import Scores, caption, summary_rows
from scripts.labels import CLASS_COLOURS, CLASSES, ERROR_COLOURS
from scripts.report.figures import Chart
from scripts.report.mosaic import STEPS, Mosaic

__all__ = ["build_page", "figure_section", "mosaic_section", "patient_section", "provenance_section", "summary_section"]

PLANES = "axial, coronal and sagittal slice"
ERRORS = {1: "missed tumour", 2: "false tumour", 3: "tumour of another class"}
FACTS = {  # of a stage's JSON, in the order of the page
    "command": "Command",
    "date": "Date (UTC)",
    "seed": "Seed",
    "revision": "Revision",
    "versions": "Versions",
    "machine": "Machine",
    "data": "Data",
    "weights": "Weights",
}


def build_page(title: str, subtitle: str, sections: Sequence[str], mosaics: Mapping[str, Mosaic]) -> str:
    """The whole page as HTML, with the images of all slider positions."""
    slices = {
        case: {name: [base64.b64encode(image).decode() for image in images] for name, images in mosaic.panels.items()}
        for case, mosaic in mosaics.items()
    }
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    data = json.dumps(slices).replace("<", "\\u003c")  # a case's name must not end the script element
    return template.substitute(
        title=html.escape(title), subtitle=html.escape(subtitle), body="\n".join(sections), slices=data
    )


def table(rows: Sequence[Sequence[str]], sortable: bool = False) -> str:
    """A table whose first row is the header."""
    name = ' class="sortable"' if sortable else ""
    button = "<button>{}</button>" if sortable else "{}"
    head = "".join(f'<th scope="col">{button.format(html.escape(text))}</th>' for text in rows[0])
    cells = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows[1:])
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table{name}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def summary_section(tables: Sequence[Scores]) -> str:
    """Means with intervals: one table for each way of scoring."""
    parts = ["<h2>Summary</h2>"]
    for scores in tables:
        parts += [f"<p>{html.escape(line)}</p>" for line in caption(scores).splitlines()]
        parts.append(f'<div class="wide">{table(summary_rows(scores))}</div>')
    parts.append("<p>slice_mean_dice is the paper's score. Empty slices count 1, so it says little.</p>")
    return "\n".join(parts)


def figure_section(heading: str, charts: Sequence[Chart]) -> str:
    """Charts that flow over the width of the screen."""
    items = "".join(
        f'<figure><img alt="{html.escape(item.alt)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(item.svg).decode()}"><figcaption>{html.escape(item.caption)}</figcaption></figure>'
        for item in charts
    )
    return f'<h2>{heading}</h2><div class="figures">{items}</div>'


def patient_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a patient and region; a click on a heading sorts them."""
    names = list(rows[0])
    cells = [names] + [[shorten(str(row[name])) for name in names] for row in rows]
    return f'<h2>Patient by patient</h2><div class="wide scroll">{table(cells, sortable=True)}</div>'


def shorten(text: str) -> str:
    """A number with three decimals; other text as it is."""
    try:
        return f"{float(text):.3f}" if "." in text else text
    except ValueError:
        return text


def mosaic_section(mosaics: Mapping[str, tuple[str, Mosaic]]) -> str:
    """Each patient's images with a slider; the mapping gives (case, mosaic) by title."""
    parts = [
        "<h2>Images</h2>",
        f"<p>{legend({panel for _, mosaic in mosaics.values() for panel in mosaic.panels})}</p>",
    ]
    for title, (case, mosaic) in mosaics.items():
        name = html.escape(case)
        label = f"Slices of {name}"
        figures = "".join(
            f'<figure><img data-panel="{panel}" alt="{panel} of {name}: {PLANES}" '
            f'src="data:image/webp;base64,{base64.b64encode(images[mosaic.start]).decode()}">'
            f"<figcaption>{panel}</figcaption></figure>"
            for panel, images in mosaic.panels.items()
        )
        parts.append(
            f"<section><h3>{html.escape(title)}: {name}</h3><label>{label}, from one end of the tumour to the other: "
            f'<input type="range" min="0" max="{STEPS - 1}" value="{mosaic.start}" data-case="{name}" '
            f'aria-label="{label}"> <output></output></label><div class="mosaic">{figures}</div></section>'
        )
    return "\n".join(parts)


def legend(panels: Collection[str]) -> str:
    """The meaning of the colours in these panels."""
    names = {CLASS_COLOURS[value]: CLASSES[value] for value in CLASS_COLOURS}
    names |= {ERROR_COLOURS[value]: text for value, text in ERRORS.items() if "error" in panels}
    keys = "".join(f'<span class="key" style="background:{colour}"></span>{name}' for colour, name in names.items())
    planes = "Axial, coronal, sagittal; the patient's left is on the right of the first two"
    return f"{planes}. {keys}." + " Uncertainty: entropy, yellow is high." * ("uncertainty" in panels)


def provenance_section(about: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Command, seed, versions, data, machine and configuration of every stage."""
    parts = ["<h2>How this was made</h2>"]
    for stage, facts in about.items():
        if not facts:
            continue
        rows = "".join(
            f"<p><b>{title}</b>: <code>{html.escape(flat(facts[key]))}</code></p>"
            for key, title in FACTS.items()
            if facts.get(key) not in (None, {}, [])
        )
        config = html.escape(json.dumps(facts.get("configuration"), indent=1))
        parts.append(
            f"<h3>{stage.capitalize()}</h3>{rows}<details><summary>Configuration</summary><pre>{config}</pre></details>"
        )
    return "\n".join(parts)


def flat(value: Any) -> str:
    """A nested value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    return ", ".join(map(flat, value)) if isinstance(value, list) else str(value)
