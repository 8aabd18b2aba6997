"""Files are written completely or not at all; tables and nested settings keep every entry."""

import errno
import json
import os
import re
import subprocess
from contextlib import contextmanager

import pytest

from scripts.documents import check_form
from scripts.errors import UserError
from scripts.evaluation.run_paths import named_runs
from scripts.files import (
    check_folder,
    check_output,
    flatten,
    read_json,
    read_table,
    replacing,
    write_json,
    write_table,
    write_text,
)
from scripts.locking import FolderLock


def test_tables_hold_the_columns_of_all_rows(tmp_path):
    write_table(tmp_path / "new" / "t.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert (tmp_path / "new" / "t.csv").read_text().split() == ["a,b", "1,", "2,3"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.csv"]
    assert read_table(tmp_path / "new" / "t.csv") == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]
    assert read_table(tmp_path / "none.csv") == []


def test_names_whose_bytes_are_no_utf_8_are_written_and_read_again(tmp_path):
    """As on old CDs, in Latin-1."""
    name = os.fsdecode(b"M\xfcller")
    for write, content in ((write_text, f"<b>{name}</b>"), (write_json, {"a": name}), (write_table, [{"a": name}])):
        write(tmp_path / name, content)
    assert read_table(tmp_path / name) == [{"a": name}]
    write_json(tmp_path / name, {"a": name})
    assert read_json(tmp_path / name, "a") == {"a": name}
    write_text(tmp_path / name, f"<b>{name}</b>")
    assert (tmp_path / name).read_text(encoding="utf-8") == r"<b>M\udcfcller</b>"


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as partial:
        partial.write_text("half")
        raise OSError("full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_lacks_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": {"c": None}}


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_file_that_holds_no_mapping_is_named_with_its_option(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"split .*a\.json"):
        read_json(str(tmp_path / "a.json"), "split")


@pytest.mark.parametrize("name", ["a.txt", "", "file/a.json"])
def test_an_output_that_cannot_be_written_is_named_before_any_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="output .*"):
        check_output(str(tmp_path / name), "output", ".json")


def test_settings_are_flattened_to_leaves():
    settings = {"teachers": {"t1": {"sequences": ["t1"]}}, "fusion": None, "none": {}}
    assert dict(flatten(settings)) == {"teachers::t1::sequences::0": "t1", "fusion": None, "none": {}}


def test_runs_are_named():
    assert named_runs("a=x,b=y/z") == {"a": "x", "b": "y/z"}
    assert named_runs("a=x/c,d/out,b=y") == {"a": "x/c,d/out", "b": "y"}
    for wrong in ("a,b", "a=", "=x", "a=x,a=y"):
        with pytest.raises(UserError, match=f"'{wrong}'.*each name once"):
            named_runs(wrong)


@pytest.mark.parametrize("write", [write_json, write_table, write_text])
def test_a_name_that_is_too_long_is_named_and_nothing_is_left(write, tmp_path):
    path = tmp_path / f"{'n' * 300}.txt"
    with pytest.raises(UserError) as error:
        write(path, {write_json: {}, write_table: [], write_text: ""}[write])
    assert str(path) in str(error.value) and os.strerror(errno.ENAMETOOLONG) in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["name", "folder"])
def test_an_output_or_folder_of_too_long_a_name_is_named_before_any_work(place, tmp_path):
    path = tmp_path / ("n" * 300 if place == "folder" else "") / f"{'n' * 300}.csv"
    for check in (lambda: check_output(str(path), "output", ".csv"), lambda: check_folder(path, "output")):
        with pytest.raises(UserError, match="output .*") as error:
            check()
        assert str(path) in str(error.value) and os.strerror(errno.ENAMETOOLONG) in str(error.value)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def read_only(folder):
    """The folder, read-only: for root by a mount, since root ignores permissions."""
    if os.geteuid():
        folder.chmod(0o500)
        yield errno.EACCES
        folder.chmod(0o700)
        return
    try:
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root cannot mount here, and ignores permissions ({error})")
    try:
        yield errno.EROFS
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder_is_named_with_what_the_system_says(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    write_text(folder / "a.json", "{}")
    attempts = [
        lambda: write_text(folder / "a.json", "new"),
        lambda: write_text(folder / "new" / "a.json", "new"),
        lambda: check_output(str(folder / "b.json"), "output", ".json"),
        lambda: check_output(str(folder / "new" / "b.json"), "output", ".json"),
        lambda: check_folder(folder, "output_dir"),
        lambda: check_folder(folder / "new", "output_dir"),
        lambda: FolderLock(str(folder)),
    ]
    with read_only(folder) as number:
        for attempt in attempts:
            with pytest.raises(UserError) as error:
                attempt()
            assert str(folder) in str(error.value) and os.strerror(number) in str(error.value)
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert (folder / "a.json").read_text() == "{}"


def test_a_lock_on_a_folder_that_became_read_only_is_let_go_without_an_error(tmp_path, capsys):
    lock = FolderLock(str(tmp_path))
    with read_only(tmp_path):
        del lock
    assert capsys.readouterr().err == ""
    FolderLock(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, suffix, options",
    [
        ("metrics.csv", ".csv", {}),
        ("training.json", ".json", {}),
        ("training.csv", ".csv", {"beside": {".json": "word"}, "own": ["metrics.csv"]}),
        ("metrics.html", ".html", {"beside": {".csv": "word", ".json": "word"}}),
        ("split_in_five.json", ".json", {"sources": [None, "split_in_five.json"]}),
        ("split_in_five.csv", ".csv", {"beside": {".json": "word"}}),
    ],
)
def test_no_command_replaces_the_document_of_another_one(tmp_path, monkeypatch, name, suffix, options):
    monkeypatch.chdir(tmp_path)
    documents = {tmp_path / "training.json", tmp_path / "metrics.csv", tmp_path / "split_in_five.json"}
    for path in documents:
        path.write_text("kept")
    with pytest.raises(UserError, match="output is .*would replace"):
        check_output(str(tmp_path / name), "output", suffix, **options)
    assert set(tmp_path.iterdir()) == documents and {path.read_text() for path in documents} == {"kept"}


def test_a_command_replaces_what_it_wrote_itself(tmp_path):
    for name, text in {"table.csv": "any", "table.json": "the word", "own.csv": "a,b", "p.png": "any"}.items():
        (tmp_path / name).write_text(text)
    check_output(str(tmp_path / "table.csv"), "output", ".csv", beside={".json": "word"}, sources=["none.csv"])
    check_output(str(tmp_path / "own.csv"), "output", ".csv", beside={".csv": "a,b"})
    check_output(str(tmp_path / "p.png"), "picture", ".png")
    (tmp_path / "table.csv").unlink()
    check_output(str(tmp_path / "table.csv"), "output", ".csv", beside={".json": "word"})
    names = ["metrics.csv", "metrics.json"]
    for name in names:
        (tmp_path / name).write_text("the word")
    check_output(str(tmp_path / "metrics.csv"), "output", ".csv", beside={".json": "word"}, own=names)


@pytest.mark.parametrize(
    "name, files, beside",
    [
        ("pat.csv", {"pat.csv": "name,age"}, {".csv": "region,metric"}),
        ("pat.csv", {"pat.csv": "name,age", "pat.json": "{}"}, {".json": "word"}),
        ("pat.csv", {"pat.csv": "name,age"}, {".json": "word"}),
        ("pat.html", {"pat.csv": "name,age"}, {".csv": "", ".json": "word"}),
    ],
)
def test_a_users_own_tables_and_documents_stay(name, files, beside, tmp_path):
    for own, text in files.items():
        (tmp_path / own).write_text(text)
    with pytest.raises(UserError, match=r"output is .*would replace .*pat\..* did not write"):
        check_output(str(tmp_path / name), "output", f".{name[4:]}", beside=beside)


@pytest.mark.parametrize(
    "value, form, words",
    [
        (None, {"a": str}, ["a is empty", "expected text"]),
        (7, {"a": (str, list)}, ["a is the number 7", "expected text or a list"]),
        ("7", {"a": int}, ["a is the text '7'", "expected a whole number"]),
        (True, {"a": int}, ["a is true", "expected a whole number"]),
        ({f"weight_{index}": 0 for index in range(300)}, {"a": {"b": int}}, ["a has no b", "weight_0", "292 more"]),
    ],
)
def test_what_a_document_holds_is_said_in_words_for_people(value, form, words):
    with pytest.raises(UserError) as error:
        check_form({"a": value}, form, "source")
    assert all(word in str(error.value) for word in words)
    assert len(str(error.value)) < 300 and not re.search("NoneType|str\\b|int\\b|dict", str(error.value))
