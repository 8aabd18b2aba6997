"""The folders of runs in a text with commas between them."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.errors import UserError


def run_paths(runs: str) -> list[str]:
    """The paths, split at commas; where a longer part with commas is a path that exists, the longest such part."""
    parts, paths = runs.split(","), list[str]()
    while parts:
        joined = [",".join(parts[:count]) for count in range(len(parts), 0, -1)]
        path = next((path for path in joined if Path(path.strip()).exists()), parts[0])
        paths.append(path.strip())
        del parts[: path.count(",") + 1]
    return paths


def named_runs(runs: str) -> dict[str, str]:
    """Folder of each run by name, from ``NAME=DIR,NAME=DIR``.

    Raises:
        UserError: if the text has another form, or a name twice.
    """
    pairs = [item.partition("=") for item in re.split(r",(?=[^,=/]+=)", str(runs))]  # a folder may hold commas
    named = {name.strip(): folder.strip() for name, _, folder in pairs}
    if not all([*named, *named.values()]) or len(named) < len(pairs):
        raise UserError(f"runs is {runs!r}, expected NAME=DIR,NAME=DIR, with each name once.")
    return named
