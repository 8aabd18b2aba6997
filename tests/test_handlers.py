"""Handlers under a real engine: seeds, the order of patients, warm-up, loss terms."""

from functools import partial
from types import SimpleNamespace

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd
from torch import nn

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.terms import DistillationLoss
from scripts.training.handlers import ConfidenceUpdate, EpochSeed, FollowedMetric, LossTerms, WarmUp
from scripts.training.steps import ClipGradient, FiniteSteps
from scripts.training.tumour_search import TumourSearch


def engine_of(step=lambda engine, batch: None, length=2):
    engine = Engine(step)
    engine.scaler = None
    engine.state.device = torch.device("cpu")
    engine.state.epoch_length = length
    return engine


def test_a_run_that_is_resumed_within_an_epoch_does_not_ask_the_teachers_again():
    search = TumourSearch(None, None, SimpleNamespace(data=[{}]), None)
    search(SimpleNamespace(state=SimpleNamespace(epoch=2, iteration=5, epoch_length=4)))
    with pytest.raises(AttributeError):  # at the start of an epoch it asks the network, which is not there
        search(SimpleNamespace(state=SimpleNamespace(epoch=2, iteration=4, epoch_length=4)))


@pytest.mark.parametrize(
    "frozen, follows, epochs", [(False, False, [2, 5, 8]), (True, False, [2]), (True, True, [2, 5, 8])]
)
def test_teachers_that_change_are_asked_every_few_epochs_and_their_mean_probability_decides(frozen, follows, epochs):
    """A loud teacher is outvoted, and one without its sequence is not asked."""

    class Patients(list):
        data = ({"label": ""}, {}, {})

    def teacher(sequence, *logits):
        volume = torch.tensor(logits)[None, :, None, None, None].expand(1, 4, 2, 2, 2)
        return SimpleNamespace(sequences=[sequence], network=lambda image: volume, frozen=frozen, follows=follows)

    teachers = {"loud": teacher("flair", 0.0, 50.0, 0.0, 0.0), "a": teacher("flair", 0.0, 0.0, 3.0, 0.0)}
    teachers |= {"b": teacher("flair", 0.0, 0.0, 3.0, 0.0), "blind": teacher("t2", 0.0, 0.0, 0.0, 99.0)}
    network = SimpleNamespace(training=True, eval=lambda: None, train=lambda mode: None, teachers=teachers)
    network.student_sequences = ["t1ce"]
    zeros = torch.zeros(1, 2, 2, 2)
    patients, asked = Patients([{}, *({"case": case, "image": zeros, "flair": zeros} for case in "pq")]), []

    def add(voxels):
        asked.extend((epoch, case, [n for n, index in enumerate(own) if len(index)]) for case, own in voxels.items())

    found_tumour = SimpleNamespace(add=add)
    search = TumourSearch(found_tumour, network, patients, lambda volume, net: net(volume), start=2, interval=3)
    for epoch in range(1, 9):
        state = SimpleNamespace(epoch=epoch, iteration=4 * (epoch - 1), epoch_length=4, device=torch.device("cpu"))
        search(SimpleNamespace(state=state))
    assert asked == [(epoch, case, [2]) for epoch in epochs for case in "pq"]


def test_kernels_stay_free_from_the_first_epoch_on(monkeypatch):
    for flag in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, flag, getattr(torch.backends.cudnn, flag))
    loader = DataLoader(Dataset([0]))
    engine = Engine(lambda engine, batch: None)
    EpochSeed(0, loader, deterministic=False).attach(engine)
    engine.run(loader, max_epochs=1)
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic


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


def test_ranks_draw_differently(tmp_path, free_port):
    idist.spawn("gloo", draw_on_a_rank, (str(tmp_path),), nproc_per_node=2, master_port=free_port())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, draws([1], 0)[1])
    assert not any(torch.equal(*pair) for pair in zip(first, second))


def test_warm_up_switches_distillation_on_after_its_epochs():
    loss = DistillationLoss({})
    seen = []
    engine = engine_of(lambda engine, batch: seen.append(loss.distilling))
    WarmUp(loss, epochs=2).attach(engine)
    engine.run([0], max_epochs=4)
    assert seen == [False, False, True, True]


@pytest.mark.parametrize("epochs, warns", [(2, True), (3, False)])
def test_a_run_in_which_distillation_never_begins_is_named(epochs, warns, caplog):
    waiting = SimpleNamespace(weight=1.0, warm_up_weight=0.0)
    engine = engine_of(lambda engine, batch: None)
    WarmUp(SimpleNamespace(terms={"distil": waiting}), epochs=2).attach(engine)
    engine.run([0], max_epochs=epochs)
    assert ("the student learns from labels alone to the end" in caplog.text) == warns


def test_loss_terms_are_epoch_means():
    loss = DistillationLoss({})

    def step(engine, batch):
        loss.values = {"a": torch.tensor(float(batch)), "b": torch.tensor(1.0)}
        if batch == 4:
            del loss.values["b"]  # of a batch without what it compares
        return {"loss": torch.stack([*loss.values.values()]).sum()}

    engine = engine_of(step)
    LossTerms(loss).attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    engine.run([1, 4], max_epochs=2)
    assert seen == [{"loss/a": 2.5, "loss/b": 1.0, "loss/total": (2 + 4) / 2}] * 2


def test_a_term_that_an_epoch_lacks_has_no_value_of_an_earlier_one():
    loss = DistillationLoss({})

    def step(engine, batch):
        names = "ab" if engine.state.epoch == 1 else "a"
        loss.values = {name: torch.tensor(1.0) for name in names}
        return {"loss": torch.tensor(1.0)}

    engine = engine_of(step)
    LossTerms(loss).attach(engine)
    engine.run([0], max_epochs=2)
    assert engine.state.metrics == {"loss/a": 1.0, "loss/total": 1.0}


def sampler(seed):
    """The sampler of configs/train.yaml for rank 0 of two, over eight labelled patients."""
    config = ConfigParser.load_config_file(BUNDLE / "configs" / "train.yaml")
    settings = config["train"]["sampler"] | {"dataset": list(range(8)), "data": [{"label": ""}] * 8, "world": 2}
    numbers = {key: config[key] for key in ("unlabelled_share", "unlabelled_ramp_up")}
    return ConfigParser({"seed": seed, "rank": 0, "sampler": settings, **numbers}).get_parsed_content("sampler")


def test_each_epoch_has_the_order_of_its_number():
    order, seen = sampler(0), {}
    engine = Engine(lambda engine, batch: seen.setdefault(engine.state.epoch, []).append(int(batch)))
    loader = DataLoader(Dataset(list(range(8))), sampler=order)
    EpochSeed(0, loader).attach(engine)
    engine.run(loader, max_epochs=3)
    for epoch, patients in seen.items():
        wanted = DistributedSampler(range(8), num_replicas=2, rank=0)
        wanted.set_epoch(epoch)
        assert patients == list(wanted)
    assert seen[1] != seen[2] != seen[3]


def test_the_order_of_patients_depends_on_the_seed():
    assert list(sampler(0)) == list(sampler(0)) != list(sampler(1))


NAN, STEEP = float("nan"), 0.0  # labels that spoil a step: its loss, or its gradient alone


class Spoilt(DistillationLoss):
    """Mean of squares times label, and mean of output, as two terms. A buffer holds a running mean."""

    def __init__(self):
        super().__init__({})
        self.register_buffer("running", torch.zeros(()))

    def of_batch(self, output, label):
        self.running.lerp_((output.detach() * label).mean(), 0.1)
        at_zero = (output - output.detach()).sum().sqrt()  # 0, with a gradient that is not finite
        return {
            "first": (output.square() * label).mean() + (at_zero if (label == STEEP).any() else 0),
            "second": output.mean(),
        }


def batches(labels):
    """A batch of four for each label; equal numbers of batch give equal images."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(4, 3, generator=generator) for _ in labels]
    return [{"image": image, "label": torch.full((4, 1), float(label))} for image, label in zip(images, labels)]


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 1))


def train(data, epochs=1, accumulation=1, handlers=(), optimizer=torch.optim.AdamW, scaler=None):
    """Train a small network with batch normalisation: its state, the optimizer's, and each epoch's metrics."""
    network = small_network()
    groups = [{"params": list(network[:2].parameters())}, {"params": list(network[2].parameters())}]
    loss = Spoilt()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=data, network=network,
        optimizer=optimizer(groups, lr=0.1, weight_decay=0.1), loss_function=loss, decollate=False,
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["label"]), accumulation_steps=accumulation,
        epoch_length=len(data),
    )  # fmt: skip
    if scaler:
        trainer.amp = True
        trainer.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", scaler))
    seen = []
    for handler in [make(loss) for make in handlers] + [LossTerms(loss)]:
        handler.attach(trainer)
    kept = {"running": loss.running}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.metrics | kept))
    trainer.run()
    return network.state_dict(), trainer.optimizer.state_dict()["state"], seen


OPTIMIZERS = [
    torch.optim.AdamW,
    partial(torch.optim.AdamW, fused=True),
    torch.optim.Adam,
    partial(torch.optim.SGD, momentum=0.9),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bad", [NAN, float("inf"), STEEP])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(bad, optimizer, caplog):
    data = batches([1, 1, bad, 2, 1])
    network, states, (metrics,) = train(data, handlers=[FiniteSteps], optimizer=optimizer)
    expected, wanted, (means,) = train([*data[:2], *data[3:]], optimizer=optimizer)
    torch.testing.assert_close(network, expected, rtol=0, atol=0)
    torch.testing.assert_close(states, wanted, rtol=0, atol=0)
    assert metrics == means | {"skipped_steps": 1}
    (line,) = [record.message for record in caplog.records if "skipped" in record.message]
    assert "step 3" in line and ("gradient" if bad == STEEP else "first") in line and "second" not in line


def test_images_that_are_not_finite_leave_no_trace_in_buffers():
    data = batches([1, 1, 1])
    data[1]["image"][0, 0] = NAN
    network, *_ = train(data, handlers=[FiniteSteps])
    expected, *_ = train([data[0], data[2]])
    torch.testing.assert_close(network, expected, rtol=0, atol=0)


def test_finite_runs_are_the_same_bit_for_bit():
    data = batches([1, 2, -1, 0.5, 1])
    for accumulation in (1, 2):
        with_it, without = (train(data, 2, accumulation, handlers) for handlers in ([FiniteSteps], []))
        torch.testing.assert_close(with_it[:2], without[:2], rtol=0, atol=0)
        assert [row.pop("skipped_steps") for row in with_it[2]] == [0, 0]
        assert with_it[2] == without[2]


@pytest.mark.parametrize(
    "labels, kept", [([1, NAN, 1, 1, 2], [2, 3, 4]), ([NAN, 1, 1, 1], [2, 3]), ([1, 1, NAN], [0, 1])]
)
def test_a_bad_step_leaves_the_whole_accumulated_update_out(labels, kept):
    data = batches(labels)
    network, states, (metrics,) = train(data, accumulation=2, handlers=[FiniteSteps])
    expected, wanted, _ = train([data[index] for index in kept], accumulation=2)
    learnt = [name for name in network if "running" not in name and "batches" not in name]
    torch.testing.assert_close([network[n] for n in learnt], [expected[n] for n in learnt], rtol=0, atol=0)
    torch.testing.assert_close(states, wanted, rtol=0, atol=0)
    assert metrics["skipped_steps"] == 1 and metrics["loss/total"] == metrics["loss/total"]


def test_a_gradient_scaler_does_not_step_either():
    data = batches([1, NAN, 1])
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=2.0, growth_interval=100)
    network, states, _ = train(data, handlers=[FiniteSteps], scaler=scaler())
    expected, wanted, _ = train([data[0], data[2]], scaler=scaler())
    torch.testing.assert_close(network, expected)
    assert [state["step"] for state in states.values()] == [state["step"] for state in wanted.values()]


@pytest.mark.parametrize("labels", [[NAN, NAN], [1, *[STEEP] * (FiniteSteps.LIMIT + 1), 1]])
def test_a_run_that_does_not_recover_ends_with_advice(labels):
    with pytest.raises(UserError, match=r"epoch 1: .*--output_dir.*--learning_rate.*--clip_gradient.*--pretrained"):
        train(batches(labels), epochs=2, handlers=[FiniteSteps])
    train(batches([1, *[NAN] * FiniteSteps.LIMIT, 1, NAN, 1]), epochs=2, handlers=[FiniteSteps])


def skip_on_a_rank(local_rank, folder):
    """Rank 1 alone has a step of a bad loss; its gradients are not shared here."""
    data = batches([1, NAN if local_rank else 1, 1])
    torch.save(train(data, handlers=[FiniteSteps]), f"{folder}/{local_rank}.pt")


def test_ranks_skip_a_step_together(tmp_path, free_port):
    idist.spawn("gloo", skip_on_a_rank, (str(tmp_path),), nproc_per_node=2, master_port=free_port())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[2][0]["skipped_steps"] == 1
    data = batches([1, 1, 1])
    torch.testing.assert_close(first[0], train([data[0], data[2]])[0])


def test_the_confidence_does_not_take_in_a_skipped_step():
    confidence = TeacherConfidence(["flair"])
    handler = ConfidenceUpdate(confidence)
    engine = engine_of()
    good, bad = ({"flair": torch.tensor([[0.0, x]])[..., None, None, None].expand(1, 2, 2, 2, 2)} for x in (1, -1))
    for finite, logits in [(True, good), (False, bad)]:
        engine.state.finite = finite
        engine.state.output = {"pred": SimpleNamespace(teachers=logits, parts=()), "label": torch.ones(1, 1, 2, 2, 2)}
        handler(engine)
    assert confidence.volumes.tolist() == [1] and confidence.dice_sum.tolist() == [1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_clipped_by_group_before_a_step(accumulation):
    labels, norm = [1, 30, -2, 5], 0.05
    data = batches(labels)
    found = train(data, accumulation=accumulation, handlers=[lambda _: ClipGradient(norm)], optimizer=torch.optim.SGD)
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    norms = []
    for start in range(0, len(data), accumulation):
        optimizer.zero_grad()
        for batch in data[start : start + accumulation]:
            (Spoilt()(network(batch["image"]), batch["label"]) / accumulation).backward()
        norms += [nn.utils.clip_grad_norm_(part.parameters(), norm) for part in (network[:2], network[2])]
        optimizer.step()
    assert max(norms) > norm
    torch.testing.assert_close(found[0], network.state_dict())


def test_gradients_below_the_norm_stay_as_they_are_and_a_norm_of_nothing_is_rejected():
    data = batches([1, 2, 3])
    clipped, plain = (train(data, handlers=handlers)[0] for handlers in ([lambda _: ClipGradient(1e6)], []))
    torch.testing.assert_close(clipped, plain, rtol=0, atol=0)
    with pytest.raises(ValueError, match="got 0"):
        ClipGradient(0)


def test_dice_of_an_epoch_that_did_not_measure_it_is_no_earlier_ones():
    handler = ConfidenceUpdate(TeacherConfidence(["flair", "t2"]))
    engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
    handler.confidence.volumes += 1
    handler.update(engine)
    assert "dice/flair" in engine.state.metrics
    handler.update(engine)
    assert set(engine.state.metrics) == {"weight/flair", "weight/t2"}


def test_a_schedule_follows_the_key_metric():
    """A Dice that rises must not lower the rate, whichever way the schedule looks."""
    weight = torch.nn.Parameter(torch.zeros(1))
    for mode in ("min", "max"):
        optimizer = torch.optim.SGD([weight], lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, patience=2)
        follow = FollowedMetric(schedule)
        for rising, rate in ((0.01, 1.0), (0.0, 0.1)):
            for step in range(4):
                metrics = {"val_mean_dice": 0.3 + rising * step, "other": 0.5}
                state = SimpleNamespace(metrics=metrics, key_metric_name="val_mean_dice")
                schedule.step(follow(SimpleNamespace(state=state)))
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate), (mode, rising)
