import pytest
from matplotlib.figure import Figure

from scripts.errors import UserError
from scripts.report import curves
from scripts.report.curves import draw_curves, draw_panel, mean_history, side_by_side


@pytest.fixture
def drawn(monkeypatch):
    """Titles and columns of the panels that are drawn."""
    panels = {}
    monkeypatch.setattr(
        curves, "draw_panel", lambda axis, rows, title, columns, colours: panels.update({title: columns})
    )
    return panels


def test_a_panel_has_a_line_a_column_and_skips_epochs_without_value():
    axis = Figure().subplots()
    rows = [{"epoch": "1", "a/x": "0.5", "a/y": ""}, {"epoch": "2", "a/x": "0.25", "a/y": "0.75"}]
    draw_panel(axis, rows, "title", ["a/x", "a/y", "a/unknown"])
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[1, 0.5], [2, 0.25]], [[2, 0.75]]]
    assert [text.get_text() for text in axis.get_legend().texts] == ["x", "y"]


def test_panels_are_drawn_for_what_the_history_holds(tmp_path, drawn):
    rows = [
        "epoch,weight/flair,weight/t2,dice/flair,validation/dice/WT,loss/total",
        "1,0.1,,0.2,,1",
        "2,0.05,,0.4,0.3,1",
    ]
    (tmp_path / "history.csv").write_text("\n".join(rows))
    draw_curves(str(tmp_path / "all.png"), str(tmp_path))
    assert list(drawn.values()) == [["weight/flair"], ["dice/flair"], ["validation/dice/WT"]]
    drawn.clear()
    (tmp_path / "history.csv").write_text("epoch,weight/flair,validation/dice/WT\n1,,0.5")
    draw_curves(str(tmp_path / "one.png"), str(tmp_path))
    assert list(drawn.values()) == [["validation/dice/WT"]]
    (tmp_path / "history.csv").write_text("epoch,loss/total\n1,0.5")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"{folder}.*history.csv"):
            draw_curves(str(tmp_path / "p.png"), str(folder))
    assert not (tmp_path / "p.png").exists()


def test_runs_side_by_side_are_means_over_the_folders_that_match(tmp_path, drawn):
    for name, loss, dice in [("alone_0", 0.4, 0.5), ("alone_1", 0.2, 0.7), ("distilled", 0.1, 0.9)]:
        (tmp_path / name).mkdir()
        rows = ["epoch,loss/student,validation/dice/WT", f"1,{loss},", f"2,{loss / 2},{dice}"]
        (tmp_path / name / "history.csv").write_text("\n".join(rows))
    alone, distilled = (mean_history(str(tmp_path / name)) for name in ("alone_*", "distilled"))
    rows = side_by_side({"alone": alone, "distilled": distilled})
    assert [float(row["loss/student/alone"]) for row in rows] == pytest.approx([0.3, 0.15])
    assert [row["validation/dice/WT/alone"] for row in rows] == ["", "0.6"]
    assert [float(row["loss/student/distilled"]) for row in rows] == [0.1, 0.05]
    picture = tmp_path / "new" / "p.png"
    draw_curves(str(picture), runs=f"alone={tmp_path}/alone_*,distilled={tmp_path}/distilled")
    assert list(drawn.values()) == [  # no run has Dice of TC or ET
        ["loss/student/alone", "loss/student/distilled"],
        ["validation/dice/WT/alone", "validation/dice/WT/distilled"],
    ]
    assert picture.is_file()
    (tmp_path / "alone_1" / "history.csv").write_text("epoch,loss/student\n1,0.5")
    with pytest.raises(UserError, match=r"alone_.* do not all have epoch 2 in"):
        draw_curves(str(picture), runs=f"alone={tmp_path}/alone_*")
    with pytest.raises(UserError, match="--run DIR"):
        draw_curves(str(picture))


def test_histories_that_lack_an_epoch_are_drawn_in_order_and_not_averaged(tmp_path):
    """A resumed run may have lost a row."""
    lists = {"whole": (1, 2, 3, 4), "a_0": (1, 2, 4), "a_1": (1, 3, 4)}
    for name, epochs in lists.items():
        (tmp_path / name).mkdir()
        rows = ["epoch,loss/student", *(f"{epoch},0.5" for epoch in epochs)]
        (tmp_path / name / "history.csv").write_text("\n".join(rows))
    rows = side_by_side({name: mean_history(str(tmp_path / name)) for name in ("a_0", "whole")})
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match=r"a_\* do not all have epoch 2, 3 in"):
        mean_history(str(tmp_path / "a_*"))


def test_names_with_dollars_are_drawn_as_they_are(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.csv").write_text("epoch,loss/student\n1,0.5\n2,0.4\n")
    draw_curves(str(tmp_path / "p.png"), runs=f"$x^^2$={tmp_path}/a,$_$={tmp_path}/b")
    assert (tmp_path / "p.png").is_file()


def test_a_name_that_is_given_twice_is_named(tmp_path):
    with pytest.raises(UserError, match="each name once"):
        draw_curves(str(tmp_path / "p.png"), runs="A=x,A=y")
