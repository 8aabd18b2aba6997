"""How the trials of this folder are counted, and what they share. FAULTS=long (``make faults``): more of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.forks import Parent, parent
from faults.runs import Training, make_small

LONG = os.environ.get("FAULTS") == "long"
KEY = "trials"


@pytest.fixture
def count() -> Callable[[int, int], int]:
    """The number of trials: the first by default, the second in ``make faults``."""
    return lambda short, long: long if LONG else short


@pytest.fixture
def trials(record_property) -> Callable[[str, int, Callable[[int], object]], None]:
    """Do a trial so many times, with its number as argument. Fail at the end if any failed; show what others return."""

    def run(title: str, number: int, trial: Callable[[int], object]) -> None:
        failures, found = [], []
        for index in range(number):
            try:
                found.append(trial(index))
            except AssertionError as error:
                failures.append(f"trial {index}: {error}")
        details = "; ".join(str(detail) for detail in found if detail is not None)
        record_property(KEY, (f"{title}: {details}" if details else title, number, len(failures)))
        assert not failures, "\n\n".join(failures)

    return run


@pytest.fixture(scope="session")
def commands() -> Iterator[Parent]:
    with parent() as started:
        yield started


@pytest.fixture(scope="session")
def small(commands, tmp_path_factory) -> Path:
    """Three phantom patients of 32³ and their datalist with three folds; not to be written to."""
    return make_small(commands, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def references(commands, small, tmp_path_factory) -> dict[str, Training]:
    """A training that nothing disturbed, of MTCM-KD and of the student alone."""
    folder = tmp_path_factory.mktemp("references")
    done = {method: Training(commands, small, folder / method, method) for method in ("mtcm_kd", "student_alone")}
    for training in done.values():
        training.succeed()
    return done


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    rows = [value for report in calls for key, value in report.user_properties if key == KEY]
    if rows:
        terminalreporter.write_line(f"{'what was tried':<100}{'trials':>8}{'failures':>10}")
        for title, number, failures in rows:
            terminalreporter.write_line(f"{title:<100}{number:>8}{failures:>10}")
