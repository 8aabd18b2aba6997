"""RunCheckpoint: the best student, the last checkpoint, and resuming."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule

from scripts.errors import UserError
from scripts.training.checkpoint import RunCheckpoint


def engine_of(step=lambda engine, batch: None, length=2):
    engine = Engine(step)
    engine.scaler = None
    engine.state.device = torch.device("cpu")
    engine.state.epoch_length = length
    return engine


def checkpointed(folder, scores, resume=False, seed=0):
    """A run of as many epochs as there are validation scores; its student counts steps."""
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(student.weight)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1

    def step(engine, batch):
        with torch.no_grad():
            student.weight += 1

    def validate(engine):
        if scores[engine.state.epoch - 1] > evaluator.state.best_metric:
            evaluator.state.best_metric = scores[engine.state.epoch - 1]
            evaluator.state.best_metric_epoch = engine.state.epoch

    engine = engine_of(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    engine.state.max_epochs = len(scores)
    RunCheckpoint(str(folder), student, {"net": student, "none": None}, evaluator, {"seed": seed}, resume).attach(
        engine
    )
    engine.run([0, 0], max_epochs=len(scores))
    return engine


def weight(path):
    return torch.load(path, weights_only=True)["weight"].item()


@pytest.mark.parametrize("epochs, rest", [(3, "epoch 3/3"), (2, "all 2 epochs")])
def test_resuming_says_where_it_goes_on(epochs, rest, tmp_path, caplog):
    checkpointed(tmp_path, [0.3, 0.6])
    with caplog.at_level("INFO", logger="scripts.training.checkpoint"):
        checkpointed(tmp_path, [0.3, 0.6, 0.5][:epochs], resume=True)
    (message,) = caplog.messages
    assert str(tmp_path / "checkpoint.pt") in message and rest in message


def test_the_best_student_is_kept_and_a_worse_one_never_replaces_it_after_resuming(tmp_path):
    checkpointed(tmp_path, [0.3, 0.6, 0.5])
    assert weight(tmp_path / "model.pt") == 4
    checkpointed(tmp_path, [0.3, 0.6, 0.5, 0.55, 0.4], resume=True)
    assert weight(tmp_path / "model.pt") == 4
    engine = checkpointed(tmp_path, [0.3, 0.6, 0.5, 0.55, 0.4, 0.9], resume=True)
    assert weight(tmp_path / "model.pt") == 12
    assert engine.state.epoch == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpointed(tmp_path, [0.3])
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def fail(_, file, **options):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        checkpointed(tmp_path, [0.3, 0.2], resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_a_run_that_replaces_an_earlier_one_says_so(tmp_path, caplog):
    checkpointed(tmp_path, [0.3])
    assert not caplog.records
    checkpointed(tmp_path, [0.3])
    (warning,) = caplog.messages
    assert str(tmp_path / "checkpoint.pt") in warning and "--resume True" in warning


@pytest.mark.parametrize("warm_up", [1, 6])  # 6 is more than the first run has
def test_a_run_that_goes_on_for_longer_has_the_learning_rates_of_the_whole(warm_up, tmp_path):
    def schedule(epochs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, WarmupCosineSchedule(optimizer, warmup_steps=warm_up, t_total=epochs)

    def train(epochs, resume):
        optimizer, lr_scheduler = schedule(epochs)
        engine, evaluator = engine_of(length=1), engine_of()
        evaluator.state.best_metric = evaluator.state.best_metric_epoch = -1
        engine.state.max_epochs = epochs
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: optimizer.step())
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: lr_scheduler.step())
        objects = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        RunCheckpoint(str(tmp_path), torch.nn.Linear(1, 1), objects, evaluator, {}, resume).attach(engine)
        rates = []
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
        engine.run([0], max_epochs=epochs)
        return rates

    whole = train(8, False)
    train(4, False)
    assert train(8, True) == pytest.approx(whole[4:])


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none/checkpoint\.pt"):
        checkpointed(tmp_path / "none", [0.1], resume=True)
    checkpointed(tmp_path, [0.1])
    with pytest.raises(UserError, match=r"seed is 1, .*checkpoint\.pt .* 0\b"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True, seed=1)
    checkpointed(tmp_path, [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"epochs is 2, .*checkpoint\.pt .* 3\b"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"net": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r'checkpoint\.pt .*"weight"'):
        checkpointed(tmp_path, [0.1, 0.2, 0.3], resume=True)
