"""Commands refuse a misspelt option, or words in a number's place, before they do anything."""

import sys

import pytest

from scripts.command import command_line_options, run_command
from scripts.errors import UserError


def act(pred: str, folds: "int" = 5, ratio: "float" = 0.5, strict: "bool" = True) -> None:
    calls.append((pred, folds, ratio, strict))


def act_on_anything(pred: str, **overrides: str) -> None:
    calls.append((pred, overrides))


calls: list = []


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--pred", "a", "--fold", "3"], "--fold is not an option here; did you mean --folds"),
        (["--pred=a", "--rato=1"], "--rato .*did you mean --ratio"),
        (["--metrc", "a"], "--metrc is not an option here; there are --pred, --folds, --ratio, --strict"),
        (["--pred", "a", "--strict", "maybe"], "--strict is 'maybe', expected True or False"),
        (["--pred", "a", "--folds", "two"], "--folds is 'two', expected a whole number"),
        (["--pred", "a", "--folds", "1.5"], "--folds is '1.5', expected a whole number"),
        (["--pred", "a", "--ratio", "half"], "--ratio is 'half', expected a number"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_done(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["act", *arguments])
    with pytest.raises(UserError, match=message):
        run_command(act)
    assert not calls


@pytest.mark.parametrize(
    "arguments, call",
    [
        (["a"], ("a", 5, 0.5, True)),
        (["a", "3", "--nostrict"], ("a", 3, 0.5, False)),
        (["a", "--strict", "--ratio", "2"], ("a", 5, 2, True)),
        (["--pred", "a", "--folds=2", "--ratio", "1", "--strict", "False"], ("a", 2, 1, False)),
    ],
)
def test_good_options_are_passed_on(arguments, call, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["act", *arguments])
    run_command(act)
    assert calls == [call]


def test_a_function_of_any_options_takes_them(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["act", "a", "--spacing", "[2,2,2]"])
    run_command(act_on_anything)
    assert calls == [("a", {"spacing": [2, 2, 2]})]


def test_options_are_read_as_fire_does():
    line = ["run", "--a-b", "1", "--c=x=y", "--d"]
    assert command_line_options(line) == {"a_b": "1", "c": "x=y", "d": ""}
