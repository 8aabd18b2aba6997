"""StopOnSignal: where a run stops, its exit code, what is saved, and what is said about it."""

import os
import re
import signal

import pytest
from ignite.engine import Engine, Events

from scripts.errors import WORKER_ENDED, UserError
from scripts.training.stopping import StopEvents, StopOnSignal


def run(at, number=signal.SIGTERM, validation_at=(), accumulation=1):
    """Epochs of three steps and validations of two; the signal comes in a step (epoch, step). What was done."""
    done = []

    def step(engine, batch):
        done.append(("step", engine.state.epoch, batch))
        if (engine.state.epoch, batch) == at:
            os.kill(os.getpid(), number)

    def validation_step(evaluator, batch):
        done.append(("validation", evaluator.state.epoch, batch))
        if (evaluator.state.epoch, batch) == validation_at:
            os.kill(os.getpid(), number)

    def validate(engine):
        if validation_at:
            evaluator.state.epoch = engine.state.epoch - 1
            evaluator.run([1, 2], max_epochs=engine.state.epoch)

    engine, evaluator = Engine(step), Engine(validation_step)
    engine.register_events(*StopEvents)
    engine.add_event_handler(StopEvents.STOPPED, lambda: done.append(("saved", engine.state.epoch)))
    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: done.append(("saved", engine.state.epoch)))
    engine.accumulation_steps = accumulation
    StopOnSignal(evaluator).attach(engine)
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as error:
        engine.run([1, 2, 3], max_epochs=2)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    assert error.value.code == 128 + number
    return done


def said(caplog):
    (message,) = [record.getMessage() for record in caplog.records if record.name == "scripts.training.stopping"]
    return message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_stops_after_the_step_and_is_saved(step, number, caplog):
    done = run((2, step), number)
    assert done[-step - 2 :] == [("saved", 1), *(("step", 2, one) for one in range(1, step + 1)), ("saved", 2)]
    message = said(caplog)
    assert f"after step {step} of 3 of epoch 2" in message and "repeats nothing" in message


@pytest.mark.parametrize("step", [1, 2])
def test_with_several_processes_the_steps_of_the_epoch_are_repeated(step, caplog, monkeypatch):
    """A mock: ignite then says that there are two processes."""
    monkeypatch.setattr("scripts.training.stopping.idist.get_world_size", lambda: 2)
    assert run((2, step))[-1] == ("step", 2, step)
    message = said(caplog)
    assert f"step {step} of 3" in message and "end of epoch 1" in message and f"repeats {step} step" in message


def test_accumulated_gradients_are_applied_before_the_end():
    assert run((1, 1), accumulation=2)[-2:] == [("step", 1, 2), ("saved", 1)]


def test_after_the_last_step_the_epoch_is_saved_and_nothing_is_repeated(caplog):
    assert run((1, 3))[-2:] == [("step", 1, 3), ("saved", 1)]
    message = said(caplog)
    assert "after epoch 1" in message and "repeats nothing" in message


def test_a_validation_stops_after_its_step_and_the_epoch_is_repeated(caplog):
    done = run((), validation_at=(2, 1))
    assert done[-2:] == [("step", 2, 3), ("validation", 2, 1)] and ("saved", 1) in done
    message = said(caplog)
    assert "validation" in message and "end of epoch 1" in message and "repeats this epoch" in message


def test_a_second_signal_ends_the_run_at_once_but_not_within_two_seconds(monkeypatch):
    clock = iter([10.0, 11.0, 13.0])
    monkeypatch.setattr("scripts.training.stopping.time.monotonic", lambda: next(clock))
    stop = StopOnSignal(Engine(lambda engine, batch: None))
    stop.receive(signal.SIGINT, None)
    stop.receive(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop.receive(signal.SIGINT, None)


@pytest.fixture
def stop():
    before = signal.getsignal(signal.SIGCHLD)
    yield StopOnSignal(Engine(lambda engine, batch: None))
    signal.signal(signal.SIGCHLD, before)


def test_an_error_that_follows_from_a_signal_ends_with_its_exit_code(stop):
    stop.number = signal.SIGINT
    with pytest.raises(SystemExit) as raised:
        stop.fail(None, RuntimeError("DataLoader worker (pid 1) is killed"))
    assert raised.value.code == 130


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError()])
def test_a_loading_process_that_is_lost_ends_the_run_by_a_sentence(stop, error):
    with pytest.raises(UserError, match=re.escape(WORKER_ENDED)):
        stop.fail(None, error)


def test_another_error_stays_itself(stop):
    with pytest.raises(RuntimeError, match="own"):
        stop.fail(None, RuntimeError("own"))
