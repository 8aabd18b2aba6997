"""Handlers under a real engine: what is logged, kept, seeded and restored."""

import csv

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd

from scripts.checkpoint import RunCheckpoint
from scripts.errors import UserError
from scripts.handlers import EpochSeed, LossTerms, WarmUp
from scripts.losses import DistillationLoss, SegmentationLoss, SoftTargetLoss
from scripts.records import History, write_table


def engine_of(step=lambda engine, batch: None, length=2):
    engine = Engine(step)
    engine.scaler = None
    engine.state.device = torch.device("cpu")
    engine.state.epoch_length = length
    return engine


def draws(epochs, workers, seed=0):
    """Batches of each epoch of a loader that shuffles and adds noise, by epoch."""
    data = [{"x": torch.full((1, 2), float(i))} for i in range(4)]
    loader = DataLoader(Dataset(data, Compose([RandGaussianNoised("x", prob=1.0)])), shuffle=True, num_workers=workers)
    augmentation = Compose([RandScaleIntensityd("x", prob=1.0, factors=0.5)])
    seen = {}

    def step(engine, batch):
        changed = augmentation({"x": torch.ones(1, 1, 2)})["x"]
        seen.setdefault(engine.state.epoch, []).extend([batch["x"].clone(), changed])

    engine = Engine(step)
    EpochSeed(seed, loader, augmentation).attach(engine)
    if epochs[0] > 1:
        engine.load_state_dict({"epoch": epochs[0] - 1, "max_epochs": epochs[-1], "epoch_length": 4})
    engine.run(loader, max_epochs=epochs[-1])
    return {epoch: torch.cat(values) for epoch, values in seen.items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epochs_draws_depend_on_seed_and_epoch_alone(workers):
    whole, late = draws([1, 2, 3], workers), draws([3], workers)
    assert torch.equal(whole[3], late[3])
    assert not torch.equal(whole[1], whole[2])
    assert not torch.equal(whole[1], draws([1], workers, seed=1)[1])


def draw_on_a_rank(local_rank, folder):
    torch.save(draws([1], 0)[1].as_subclass(torch.Tensor), f"{folder}/{local_rank}.pt")


def test_ranks_draw_differently(tmp_path):
    idist.spawn("gloo", draw_on_a_rank, (str(tmp_path),), nproc_per_node=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, draws([1], 0)[1])
    assert not any(torch.equal(*pair) for pair in zip(first, second))


def test_warm_up_switches_distillation_on_after_its_epochs():
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss())
    seen = []
    engine = engine_of(lambda engine, batch: seen.append(loss.distilling))
    WarmUp(loss, epochs=2).attach(engine)
    engine.run([0], max_epochs=4)
    assert seen == [False, False, True, True]


def test_loss_terms_are_epoch_means():
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss())

    def step(engine, batch):
        loss.terms = {"a": torch.tensor(float(batch)), "b": torch.tensor(1.0)}

    engine = engine_of(step)
    LossTerms(loss).attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    engine.run([1, 4], max_epochs=2)
    assert seen == [{"loss/a": 2.5, "loss/b": 1.0, "loss/total": 3.5}] * 2


def test_history_keeps_the_rows_before_a_resumed_epoch(tmp_path):
    def run(first, last):
        engine, evaluator = engine_of(length=1), Engine(lambda engine, batch: None)
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


def test_tables_hold_the_columns_of_all_rows(tmp_path):
    write_table(tmp_path / "new" / "t.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert (tmp_path / "new" / "t.csv").read_text().split() == ["a,b", "1,", "2,3"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.csv"]


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
    assert "will be replaced" not in caplog.text
    checkpointed(tmp_path, [0.3])
    assert "checkpoint.pt is of an earlier run and will be replaced" in caplog.text


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


def test_resuming_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint\.pt does not exist"):
        checkpointed(tmp_path / "none", [0.1], resume=True)
    checkpointed(tmp_path, [0.1])
    with pytest.raises(UserError, match="seed is 1, but .* was begun with 0: use that to resume"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True, seed=1)
    checkpointed(tmp_path, [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"epochs is 2, but .*checkpoint\.pt has done 3"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"net": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="of another configuration: .{1,200}$"):
        checkpointed(tmp_path, [0.1, 0.2, 0.3], resume=True)
