"""Whether tables of scores may be compared: what they must share, and what else may make them differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

from scripts.documents import some
from scripts.errors import UserError
from scripts.evaluation.summary import Scores

logger = logging.getLogger(__name__)


def shared_rule(tables: Sequence[Scores]) -> str | None:
    """The rule for empty regions of all tables, which is the same; None if that of one is not known."""
    return tables[0].empty_rule if all(table.empty_rule for table in tables) else None


def check_same_rules(tables: Sequence[Scores]) -> list[str]:
    """What else than the label maps may make the scores of the tables differ, in sentences; warns of it.

    Raises:
        UserError: if the tables treat empty regions or small enhancing tumours in different ways.
    """
    for first, second in combinations([table for table in tables if table.empty_rule], 2):
        check_rules(first, second)
    unknown = sorted({str(table.path) for table in tables if table.empty_rule is None})
    doubts = [f"How {' and '.join(unknown)} count empty regions is not known: no JSON file beside says it. Scores may "
              "differ by that alone."] if unknown and len(tables) > 1 else []  # fmt: skip
    doubts += [sentence for table in tables[1:] for sentence in doubts_of(tables[0], table)]
    for sentence in doubts:
        logger.warning(sentence)
    return doubts


def check_rules(first: Scores, second: Scores) -> None:
    """Raises UserError if two tables treat empty regions or small enhancing tumours in different ways."""
    for key in ("empty_rule", "et_threshold_ml"):
        values = [getattr(table, key) for table in (first, second)]
        if values[0] != values[1]:
            raise UserError(
                f"{first.path} and {second.path} have the {key} {values[0]!r} and {values[1]!r}: score both in the "
                "same way."
            )


def doubts_of(first: Scores, second: Scores) -> list[str]:
    """What else may make the scores of two tables differ."""
    both, doubts = f"{first.path} and {second.path}", []
    if first.smallest_part_ml != second.smallest_part_ml:
        limits = [item.smallest_part_ml for item in (first, second)]
        known = ["not known" if value is None else str(value) for value in limits]
        doubts.append(f"{both} have the smallest_part_ml {' and '.join(known)}: lesion-wise scores may differ by that "
                      "alone.")  # fmt: skip
    common = first.truth_checksum.keys() & second.truth_checksum.keys()
    if other := sorted(case for case in common if first.truth_checksum[case] != second.truth_checksum[case]):
        doubts.append(f"{both} were scored against different truths of {len(other)} of {len(common)} scans: "
                      f"{some(other)}. Scores may differ by that alone.")  # fmt: skip
    return doubts
