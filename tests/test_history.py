"""history.csv: one row an epoch, also over a resumed run."""

import csv

import torch
from ignite.engine import Engine, Events

from scripts.labels import REGION_NAMES
from scripts.training.history import History, RegionDice


def test_history_keeps_the_rows_before_a_resumed_epoch(tmp_path):
    def run(first, last):
        engine, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
        engine.optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": "student", "lr": 0.1}])
        History(str(tmp_path), evaluator).attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda e: e.state.metrics.update({"loss/a": e.state.epoch / 2}))
        engine.load_state_dict({"epoch": first - 1, "max_epochs": last, "epoch_length": 1})
        engine.run([0], max_epochs=last)

    run(1, 3)
    run(3, 4)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[3] == {"epoch": "4", "lr/student": "0.1", "loss/a": "2.0"}


def test_the_key_metric_is_named_by_region():
    engine = Engine(lambda engine, batch: None)
    engine.state.metric_details = {"dice": torch.tensor([[0.2, 0.4, float("nan")], [0.4, 0.8, 0.5]])}
    RegionDice("dice").attach(engine)
    engine.run([0])
    wanted = dict(zip(REGION_NAMES, [0.3, 0.6, 0.5]))
    assert {name: round(engine.state.metrics[f"dice/{name}"], 6) for name in REGION_NAMES} == wanted
