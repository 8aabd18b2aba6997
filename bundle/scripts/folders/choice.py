"""The user's own names of files and patients, for what no naming scheme knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.documents import some
from scripts.errors import UserError
from scripts.folders.schemes import CHOSEN, PLAIN, Name, read_name


@dataclass(frozen=True)
class Choice:
    """The user's own names: a glob for each role and a regular expression whose group 1 is the patient.

    A glob with a slash is of the path below the folder, else of the file's name. The case is the part of the name from
    the first to the last wildcard, or the name of the folder if there is none.

    A regular expression with a slash is of the path of the case below the folder, such as "(.*)/scan_.*".
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

    def patients_of(self, places: Mapping[str, str]) -> dict[str, str]:
        """Patient by case, as the regular expression says; one with a slash is of the case's path.

        Args:
            places: path below the data set's folder, by case.

        Raises:
            UserError: if it does not fit a case.
        """
        texts = {case: path if "/" in str(self.patient) else case for case, path in places.items()}
        found = {case: match[1] for case, text in texts.items() if (match := re.fullmatch(str(self.patient), text))}
        if rest := [text for case, text in texts.items() if not found.get(case)]:
            fits = "fits no case, such as" if len(rest) == len(texts) else "does not fit"
            raise UserError(
                f"patient is {self.patient!r}, which {fits} {some(rest, 10)}: it must fit the whole name of every "
                "case, and its group must not be empty."
            )
        return found


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
    others = (token.replace("[!", "[^", 1) if len(token) > 1 else re.escape(token) for token in tokens)
    return "".join(known.get(token, other) for token, other in zip(tokens, others))
