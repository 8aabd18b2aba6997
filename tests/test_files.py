"""Files are written completely or not at all; tables and nested settings keep every entry."""

import json

import pytest

from scripts.errors import UserError
from scripts.files import check_output, flatten, named_runs, read_json, read_table, replacing, write_json, write_table


def test_tables_hold_the_columns_of_all_rows(tmp_path):
    write_table(tmp_path / "new" / "t.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert (tmp_path / "new" / "t.csv").read_text().split() == ["a,b", "1,", "2,3"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.csv"]
    assert read_table(tmp_path / "new" / "t.csv") == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]
    assert read_table(tmp_path / "none.csv") == []


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
    with pytest.raises(UserError, match="'a,b'"):
        named_runs("a,b")
