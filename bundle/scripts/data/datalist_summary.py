"""The table at the end of making a datalist: what the patients have, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from scripts.data.checks import CaseReport
from scripts.files import format_table
from scripts.folders.case import Case
from scripts.folders.folder_files import FolderFiles
from scripts.labels import SEQUENCE_NAMES, SEQUENCES


def summary(
    cases: Sequence[Case], testing: Collection[str], reports: Mapping[str, CaseReport], files: FolderFiles, out: int
) -> str:
    """A table of what is listed and what is not: what patients have, label values, and files left out."""
    values = Counter(value for case in cases for value in reports[case.name].label_values)
    rows = [
        ("", "number", "of which"),
        ("cases", str(len(cases)), f"{len(testing)} for testing alone" if testing else "all for training"),
        ("patients", str(len({case.patient for case in cases})), f"such as {cases[0].patient} of {cases[0].name}"),
        *((what, str(count), "cases") for what, count in Counter(map(what_it_has, cases)).most_common()),
        *((f"label value {value}", str(count), "cases") for value, count in sorted(values.items())),
        *([("cases left out", str(out), "by faults or by the split")] if out else []),
    ]
    for reason, paths in sorted(files.grouped().items()):
        rows.append(("files left out", str(len(paths)), f"{reason}, such as {paths[0].name}"))
    return format_table(rows, right=False)


def what_it_has(case: Case) -> str:
    """ "labelled, 4 sequences" for all of them, or the names of the sequences where some are missing."""
    found = [SEQUENCE_NAMES.get(name, name) for name in SEQUENCES if name in case.files]
    sequences = f"{len(found)} sequences" if len(found) == len(SEQUENCES) else " + ".join(found)
    return f"{'labelled' if 'label' in case.files else 'unlabelled'}, {sequences}{' alone' if len(found) == 1 else ''}"
