"""A report in the making: the page appears only when all of its patients are drawn."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scripts.errors import UserError
from scripts.files import check_output, write_error, write_json, write_table, write_text
from scripts.locking import Hold
from scripts.report.layers import Patient
from scripts.report.page import Page, Shown, Table, render
from scripts.report.pictures import draw_pictures
from scripts.report.viewer import script_of, volumes_of

SCRIPT = "patient_{:04}.js"


class Draft:
    """Draws patients into a hidden folder beside the page, and at the end puts page and folder in their places.

    Args:
        target: the HTML file. Tables go beside it as CSV and JSON, volumes to the folder NAME_files.
        own: names of documents that this report may replace.
        marks: text that only its tables hold, by suffix; without text they are its own if the JSON file is.

    Raises:
        UserError: if a file cannot be written, or one that no report wrote would be lost.
    """

    def __init__(self, target: Path, own: Sequence[str], marks: Mapping[str, str]) -> None:
        check_output(str(target), "output", ".html", beside=marks, own=own)
        self.target = target
        self.beside = target.with_name(f"{target.stem}_files")
        self.shown: list[Shown] = []
        scripts = self.beside.iterdir() if self.beside.is_dir() else ()
        known = r"patient_\d{4,}\.js|\..*"  # systems add hidden files, such as .DS_Store
        if foreign := [path for path in scripts if not re.fullmatch(known, path.name)]:
            raise UserError(
                f"output is '{target}', whose volumes go to {self.beside}, but this holds {foreign[0].name}, which no "
                "report wrote: give another path."
            )

    def __enter__(self) -> Draft:
        self.hidden = Path(tempfile.mkdtemp(prefix=".draft_", dir=self.target.parent))
        self.lock: Hold | None = Hold(self.hidden / ".lock")  # else a run that starts in this folder would remove it
        return self

    def __exit__(self, *_: object) -> None:
        self.lock = None
        shutil.rmtree(self.hidden, ignore_errors=True)

    def add(self, patient: Patient, table: Table, alerts: Sequence[str] = (), source: str = "") -> None:
        """Draw a patient and write its volumes. The table and the sentences stand beside its pictures."""
        number = len(self.shown)
        write_text(self.hidden / SCRIPT.format(number), script_of(number, patient.name, volumes_of(patient)))
        kinds = frozenset(layer.kind for layer in patient.layers)
        self.shown.append(Shown(patient.name, draw_pictures(patient), table, alerts, source, kinds))

    def finish(
        self, page: Page, rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any], volumes: bool = True
    ) -> None:
        """Write the page, with the volumes of its picks inside and those of all others beside it, and the tables.

        The JSON file is the first of the files: it shows that what stands beside it is a report's, also if the rest was
        not written. After an error the volumes of before are back.

        Args:
            page: of these patients.
            rows: of the CSV.
            document: the JSON.
            volumes: False leaves out the volumes beside the page.
        """
        files = {number: self.hidden / SCRIPT.format(number) for number in range(len(self.shown))}
        inside = {number: files[number].read_text(encoding="utf-8") for number in dict.fromkeys(page.picks.values())}
        for number in [number for number in files if number in inside or not volumes]:
            files.pop(number).unlink()
        scripts = {number: quote(os.fsencode(f"{self.beside.name}/{path.name}")) for number, path in files.items()}
        html = render(page, inside, scripts)
        if files:
            self.lock = None  # which removes its file
            self.hidden.chmod(0o755)
        with in_place(self.hidden if files else None, self.beside):
            write_json(self.target.with_suffix(".json"), document)
            write_table(self.target.with_suffix(".csv"), rows)
            write_text(self.target, html)  # last: it shows the volumes by their number


@contextmanager
def in_place(folder: Path | None, place: Path) -> Iterator[None]:
    """A folder, or none, in the place of an earlier one, which comes back after an error and else is removed.

    Raises:
        UserError: if the system cannot move them, as where a file of the earlier one is in use.
    """
    earlier = Path(tempfile.mkdtemp(prefix=".draft_", dir=place.parent))
    try:
        try:
            if place.exists():
                place.rename(earlier / place.name)
            if folder:
                folder.rename(place)
        except OSError as error:
            raise write_error(place, error) from error
        yield
    except BaseException:
        if (earlier / place.name).exists():
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                (earlier / place.name).rename(place)
        raise
    finally:
        shutil.rmtree(earlier, ignore_errors=True)
