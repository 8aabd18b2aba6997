"""history.csv: one row an epoch, also over a resumed run."""

import csv
import logging

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.errors import UserError
from scripts.files import read_table
from scripts.labels import REGION_NAMES
from scripts.training.history import History, RegionDice


def run(folder, first, last):
    """A training of these epochs, resumed if the first is not 1; the epochs that it did."""
    engine, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    engine.optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": "student", "lr": 0.1}])
    History(str(folder), evaluator).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: e.state.metrics.update({"loss/a": e.state.epoch / 2}))
    engine.load_state_dict({"epoch": first - 1, "max_epochs": last, "epoch_length": 1})
    engine.run([0], max_epochs=last)


def test_history_keeps_the_rows_before_a_resumed_epoch(tmp_path):
    run(tmp_path, 1, 3)
    run(tmp_path, 3, 4)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[3] == {"epoch": "4", "lr/student": "0.1", "loss/a": "2.0"}


def test_an_optimizer_without_named_groups_has_numbers(tmp_path):
    engine, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    engine.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    History(str(tmp_path), evaluator).attach(engine)
    engine.run([0], max_epochs=1)
    assert (tmp_path / "history.csv").read_text().split() == ["epoch,lr/0", "1,0.1"]


@pytest.mark.parametrize("row", ["two,0.1,1.0", "2", "2,0.1,1.0,5", "2,0.1,x", ",0.1,1.0"])
def test_a_broken_row_stops_a_resumed_run_before_its_first_epoch(tmp_path, row):
    run(tmp_path, 1, 3)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    (tmp_path / "history.csv").write_text(broken := "\n".join([*lines[:2], row, lines[3]]))
    with pytest.raises(UserError, match=r"history\.csv .*line 3"):
        run(tmp_path, 4, 5)
    assert (tmp_path / "history.csv").read_text() == broken


def test_epochs_without_a_row_are_named(tmp_path, caplog):
    run(tmp_path, 1, 3)
    assert not caplog.records
    (tmp_path / "history.csv").unlink()
    with caplog.at_level(logging.WARNING):
        run(tmp_path, 4, 4)
    assert "history.csv has no row of epoch 1, 2, 3" in caplog.text
    with open(tmp_path / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["4"]


def test_the_key_metric_is_named_by_region():
    engine = Engine(lambda engine, batch: None)
    engine.state.metric_details = {"dice": torch.tensor([[0.2, 0.4, float("nan")], [0.4, 0.8, 0.5]])}
    RegionDice("dice").attach(engine)
    engine.run([0])
    wanted = dict(zip(REGION_NAMES, [0.3, 0.6, 0.5]))
    assert {name: round(engine.state.metrics[f"dice/{name}"], 6) for name in REGION_NAMES} == wanted


def test_validation_stands_in_the_row_of_its_epoch_alone(tmp_path):
    engine, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    engine.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    evaluator.state.metrics = {"dice/WT": 0.5}
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: setattr(evaluator.state, "epoch", 2))
    History(str(tmp_path), evaluator).attach(engine)
    engine.run([0], max_epochs=3)
    assert [row["validation/dice/WT"] for row in read_table(tmp_path / "history.csv")] == ["", "0.5", ""]
