"""The user's own names of files and patients, for what no naming scheme knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.data.schemes import CHOSEN, PLAIN, Name, patient_of, read_name
from scripts.errors import UserError

__all__ = ["Choice"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The user's own names: a glob for each role and a regular expression whose group 1 is the patient.

    A glob with a slash is of the path below the folder, else of the file's name. The case is the part of the name from
    the first to the last wildcard, or the name of the folder if there is none.
    """

    globs: Mapping[str, str | None] = field(default_factory=dict)
    patient: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "globs", {role: str(glob) for role, glob in self.globs.items() if glob})
        try:
            groups = re.compile(self.patient or "()").groups
        except re.error as error:
            raise UserError(f"patient is {self.patient!r}, no regular expression ({error}).") from error
        if groups < 1:
            raise UserError(f'patient is {self.patient!r}, expected a group, such as "(.*)_\\d+": it is the patient.')

    def read(self, path: Path, root: Path) -> Name | None:
        """What the globs say of a file; None if none fits. Raises UserError if two fit."""
        found = {role: case for role, glob in self.globs.items() if (case := match_glob(str(glob), path, root))}
        if len(found) > 1:
            options = " and ".join(f"--{role} {self.globs[role]}" for role in found)
            raise UserError(f"{path} fits {options}: give globs that no two files share.")
        for role, case in found.items():
            said = read_name(path)
            scheme, ending = (CHOSEN, "") if said.scheme is PLAIN else (said.scheme, said.ending)
            return Name(case, role, ending, scheme, path.absolute().parent)
        return None

    def patients_of(self, cases: Iterable[str]) -> dict[str, str]:
        """Patient by case: by the regular expression where one is given, else by the table.

        A case that the expression does not fit is a patient of its own. Raises UserError if it fits none.
        """
        cases = list(cases)
        if not self.patient:
            return {case: patient_of(case) for case in cases}
        found = {case: match[1] for case in cases if (match := re.fullmatch(self.patient, case)) and match[1]}
        if cases and not found:
            raise UserError(f"patient is {self.patient!r}, which fits no case, such as {cases[0]}.")
        if rest := [case for case in cases if case not in found]:
            shown = ", ".join(rest[:5]) + (", ..." if len(rest) > 5 else "")
            logger.warning(f"patient {self.patient!r} does not fit {shown}: each counts as a patient of its own.")
        return {case: found.get(case, case) for case in cases}


def match_glob(glob: str, path: Path, root: Path) -> str:
    """The case of a file that a glob fits, or ""."""
    text = path.relative_to(root).as_posix() if "/" in glob and path != root else path.name
    tokens = re.findall(r"\*\*/|\*|\?|\[[^\]]+\]|.", glob.rpartition("/")[2])
    wild = [index for index, token in enumerate(tokens) if len(token) > 1 or token in "*?"]
    first, last = (wild[0], wild[-1] + 1) if wild else (len(tokens), len(tokens))
    folders = re.findall(r"\*\*/|\*|\?|\[[^\]]+\]|.", glob[: glob.rfind("/") + 1])
    before, case, after = map(expression, (folders + tokens[:first], tokens[first:last], tokens[last:]))
    match = re.fullmatch(f"{before}({case}){after}", text)
    return (match[1] or path.absolute().parent.name) if match else ""


def expression(tokens: Iterable[str]) -> str:
    """The regular expression of the parts of a glob."""
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(token) or (token if len(token) > 1 else re.escape(token)) for token in tokens)
