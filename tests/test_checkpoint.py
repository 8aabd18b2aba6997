"""RunCheckpoint: the best student, the last checkpoint, and resuming."""

import contextlib
import errno
import os

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.optimizers import WarmupCosineSchedule

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.terms import DistillationLoss, TeacherResponses, Term
from scripts.training.checkpoint import RunCheckpoint
from scripts.training.stopping import StopEvents

FILES = ["checkpoint.pt", "checkpoint_before.pt", "model.pt"]


def engine_of(step=lambda engine, batch: None, length=2):
    engine = Engine(step)
    engine.scaler = None
    engine.state.device = torch.device("cpu")
    engine.state.epoch_length = length
    return engine


def checkpointed(folder, scores, resume=False, **settings):
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
    RunCheckpoint(
        str(folder), student, {"net": student, "none": None}, evaluator, {"seed": 0} | settings, resume
    ).attach(engine)
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
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone"])
@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(damage, resume, tmp_path, caplog):
    whole = checkpointed(tmp_path / "whole", [0.3, 0.6, 0.5])
    checkpointed(tmp_path / "run", [0.3, 0.6])
    last, content = tmp_path / "run" / "checkpoint.pt", (tmp_path / "run" / "checkpoint.pt").read_bytes()
    last.write_bytes({"cut": content[: len(content) // 2], "text": b"<html>"}.get(damage, b""))
    if damage == "gone":
        last.unlink()
    engine = checkpointed(tmp_path / "run", [0.3, 0.6, 0.5], resume=resume)
    assert engine.state.iteration == whole.state.iteration
    states = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "run")]
    assert states[0]["net"]["weight"].item() == states[1]["net"]["weight"].item() == 6
    assert [str(last) in message for message in caplog.messages].count(True) == (damage != "gone")


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_good_one(tmp_path):
    """A second bad write would else lose the run."""
    checkpointed(tmp_path, [0.3, 0.6])
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    checkpointed(tmp_path, [0.3, 0.6], resume=True)  # which saves once
    epochs = [torch.load(tmp_path / name, weights_only=True)["trainer"]["iteration"] / 2 for name in FILES[:2]]
    assert epochs == [2, 1]


def test_a_run_whose_best_student_is_gone_saves_its_next_one(tmp_path):
    checkpointed(tmp_path, [0.9])
    (tmp_path / "model.pt").unlink()
    checkpointed(tmp_path, [0.9, 0.5], resume=True)
    assert weight(tmp_path / "model.pt") == 4


def test_a_checkpoint_without_a_step_is_none_for_auto(tmp_path):
    """So settings that stopped the first step may change."""
    checkpointed(tmp_path, [0.5])
    for path in (tmp_path / name for name in FILES[:2]):
        held = torch.load(path, weights_only=True)
        held["trainer"]["iteration"] = 0
        torch.save(held, path)
    checkpointed(tmp_path, [0.5], resume="auto", seed=1)
    with pytest.raises(UserError, match="seed"):
        checkpointed(tmp_path, [0.5, 0.5], resume="auto", seed=0)


def test_a_longer_run_has_the_schedule_of_its_own_length(tmp_path):
    """Also schedules that keep their length in their state, as PyTorch's do."""

    def schedule(epochs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    def run(epochs, resume):
        optimizer, one = schedule(epochs)
        engine, rates = engine_of(lambda engine, batch: optimizer.step()), []
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: (one.step(), rates.append(one.get_last_lr()[0])))
        engine.state.max_epochs = epochs
        evaluator = Engine(lambda engine, batch: None)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
        parts = {"optimizer": optimizer, "lr_scheduler": one}
        RunCheckpoint(str(tmp_path), torch.nn.Linear(1, 1), parts, evaluator, {}, resume).attach(engine)
        engine.run([0, 0], max_epochs=epochs)
        return one, rates

    run(4, False)
    one, rates = run(8, True)
    assert (one.T_max, one.last_epoch) == (8, 8)
    assert max(rates) < 1e-6 or rates == sorted(rates, reverse=True)  # it does not rise again


def test_a_schedule_goes_on_where_it_was(tmp_path):
    """Also one that keeps its place under names of its own."""

    def rate(folder, epochs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2)
        engine = engine_of(lambda engine, batch: optimizer.step())
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: schedule.step())
        engine.state.max_epochs = epochs
        evaluator = Engine(lambda engine, batch: None)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
        parts = {"optimizer": optimizer, "lr_scheduler": schedule}
        RunCheckpoint(str(folder), torch.nn.Linear(1, 1), parts, evaluator, {}, "auto").attach(engine)
        engine.run([0, 0], max_epochs=epochs)
        return schedule.get_last_lr()

    rate(tmp_path / "stopped", 2)
    assert rate(tmp_path / "stopped", 5) == rate(tmp_path / "whole", 5)


def test_two_damaged_checkpoints_are_both_named_and_kept(tmp_path):
    checkpointed(tmp_path, [0.3])
    for name in FILES[:2]:
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(UserError) as error:
        checkpointed(tmp_path, [0.3, 0.6], resume="auto")
    assert all(str(tmp_path / name) in str(error.value) for name in FILES[:2])
    assert [(tmp_path / name).read_bytes() for name in FILES[:2]] == [b"half"] * 2


@pytest.mark.parametrize("then, now, words", [(1, 2, "is 2, but .* with 1:"), (1, None, "is not set, but .* with 1:"),
                                              (None, 2, "is 2, but .* with not set: train again")])  # fmt: skip
def test_a_setting_may_neither_change_nor_come_nor_go(then, now, words, tmp_path):
    settings = [{"loss::focus": value} if value else {} for value in (then, now)]
    checkpointed(tmp_path, [0.3], **settings[0])
    checkpointed(tmp_path, [0.3, 0.6], resume=True, **settings[0])
    with pytest.raises(UserError, match="loss::focus " + words):
        checkpointed(tmp_path, [0.3, 0.6, 0.5], resume=True, **settings[1])


def test_weights_are_not_taken_for_a_checkpoint(tmp_path):
    checkpointed(tmp_path, [0.3])
    os.replace(tmp_path / "model.pt", tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt.*trainer"):
        checkpointed(tmp_path, [0.3, 0.6], resume=True)


def test_a_full_disk_ends_a_training_with_a_sentence_and_it_goes_on_after_room_was_made(tmp_path, small_files):
    checkpointed(tmp_path, [0.3])
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with small_files(len(before) // 2), pytest.raises(UserError) as error:
        checkpointed(tmp_path, [0.3, 0.2], resume=True)
    assert str(tmp_path / "checkpoint.pt") in str(error.value) and os.strerror(errno.EFBIG) in str(error.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert checkpointed(tmp_path, [0.3, 0.2], resume=True).state.epoch == 2


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


HANDLERS = ConfigParser.load_config_file(BUNDLE / "configs" / "train.yaml")["train"]["handlers"]
(KEPT,) = (entry["objects"] for entry in HANDLERS if entry["_target_"].endswith(".RunCheckpoint"))


def learn(folder, epochs, resume=False, kept=KEPT, terms=("bank",)):
    """A run whose loss counts its steps in a buffer, as a memory bank does; ``kept`` are the objects of train.yaml."""

    class Bank(Term):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

    confidence, banks = TeacherConfidence(["t2"]), {name: Bank() for name in terms}
    loss = DistillationLoss(banks | {"distil": TeacherResponses(torch.nn.Identity(), confidence)})
    evaluator = engine_of()
    evaluator.state.best_metric = evaluator.state.best_metric_epoch = -1
    engine = engine_of(lambda engine, batch: [bank.seen.add_(1) for bank in banks.values()])
    engine.state.max_epochs = epochs
    objects = {"net": torch.nn.Linear(1, 1), "confidence": confidence}
    objects |= {name: loss for name, part in kept.items() if part == "@loss"}
    RunCheckpoint(str(folder), objects["net"], objects, evaluator, {}, resume).attach(engine)
    engine.run([0, 0], max_epochs=epochs)
    return [bank.seen.item() for bank in banks.values()]


def test_a_resumed_loss_goes_on_from_its_own_state(tmp_path, caplog):
    learn(tmp_path, 2)
    assert learn(tmp_path, 3, resume=True) == learn(tmp_path / "whole", 3) == [6.0]
    assert not caplog.records


def test_a_checkpoint_of_a_version_that_did_not_keep_the_loss_still_resumes(tmp_path, caplog):
    learn(tmp_path, 2, kept={})
    assert learn(tmp_path, 3, resume=True) == [2.0]
    assert ["does not hold terms.bank.seen of the loss" in message for message in caplog.messages] == [True]
    caplog.clear()
    learn(tmp_path / "none", 2, kept={}, terms=())
    learn(tmp_path / "none", 3, resume=True, terms=())
    assert not caplog.records


def later(folder, then, now):
    checkpointed(folder, [0.3], **then)
    checkpointed(folder, [0.3, 0.6], resume=True, **now)


def test_settings_of_which_older_checkpoints_say_nothing_may_differ_from_them_alone(tmp_path):
    window = {"window_size::0": 64, "mirror": False}
    later(tmp_path / "older", {}, window | {"train::sampler::share": None})
    later(tmp_path / "same", window, window)
    for name, now in (("mirror", window | {"mirror": True}), ("window_size::1", window | {"window_size::1": 64})):
        with pytest.raises(UserError, match=f"^{name} is"):
            later(tmp_path / name, window, now)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none/checkpoint\.pt"):
        checkpointed(tmp_path / "none", [0.1], resume=True)
    checkpointed(tmp_path, [0.1])
    with pytest.raises(UserError, match=r"seed is 1, .*checkpoint\.pt .* 0\b"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True, seed=1)
    checkpointed(tmp_path, [0.1], part="scripts.older.place.Part")
    checkpointed(tmp_path, [0.1, 0.2], resume=True, part="scripts.newer.Part")  # the class has moved
    with pytest.raises(UserError, match=r"part is scripts\.newer\.Other"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True, part="scripts.newer.Other")
    checkpointed(tmp_path, [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"epochs is 2, .*checkpoint\.pt .* 3\b"):
        checkpointed(tmp_path, [0.1, 0.2], resume=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"net": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r'checkpoint\.pt .*"weight"'):
        checkpointed(tmp_path, [0.1, 0.2, 0.3], resume=True)


def noisy(folder, stop=None, resume=False):
    """Three epochs of four steps with random order, augmentation and dropout, each epoch seeded. The final sums."""
    student, evaluator = torch.nn.Linear(1, 1, bias=False), engine_of()
    torch.nn.init.zeros_(student.weight)
    evaluator.state.best_metric = evaluator.state.best_metric_epoch = -1
    drawn = np.random.RandomState(0)
    loader = torch.utils.data.DataLoader([1.0, 2.0, 4.0, 8.0], batch_size=1, shuffle=True)

    def step(engine, batch):
        term = engine.prepare_batch(batch) * torch.rand(1)
        with torch.no_grad():
            student.weight += term
        engine.state.term_sums["a"] = engine.state.term_sums.get("a", 0.0) + term
        engine.state.term_steps["a"] = engine.state.term_steps.get("a", 0) + 1
        engine.state.metrics["skipped_steps"] += 1

    def start(engine):
        torch.manual_seed(engine.state.epoch)
        drawn.seed(engine.state.epoch)
        engine.state.term_sums, engine.state.term_steps = {}, {}
        engine.state.metrics["skipped_steps"] = 0

    engine = engine_of(step, length=4)
    engine.state.max_epochs = 3
    engine.prepare_batch, engine.non_blocking, engine.to_kwargs = lambda batch, *_: batch + drawn.rand(), False, {}
    engine.add_event_handler(Events.EPOCH_STARTED, start)
    RunCheckpoint(str(folder), student, {"net": student}, evaluator, {}, resume).attach(engine)

    def end(engine):
        engine.fire_event(StopEvents.STOPPED)
        raise SystemExit

    if stop:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop), end)
    with pytest.raises(SystemExit) if stop else contextlib.nullcontext():
        engine.run(loader, max_epochs=3)
    return engine.state.iteration, student.weight.item(), engine.state.term_sums, engine.state.term_steps


@pytest.mark.parametrize("stops", [[1], [6], [7], [9, 10], [5, 11]])
def test_a_run_that_was_saved_in_the_middle_of_an_epoch_ends_as_a_whole_one(stops, tmp_path, caplog):
    whole = noisy(tmp_path / "whole")
    for number, stop in enumerate(stops):
        assert noisy(tmp_path / "run", stop, resume=number > 0)[0] == stop
    with caplog.at_level("INFO", logger="scripts.training.checkpoint"):
        assert noisy(tmp_path / "run", resume=True) == whole
    step, epoch = (stops[-1] - 1) % 4 + 1, (stops[-1] - 1) // 4 + 1
    assert f"epoch {epoch}/3 goes on after step {step} of 4" in caplog.messages[-1]
    states = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "run")]
    assert states[0] == states[1] and "in_epoch" not in states[1]
