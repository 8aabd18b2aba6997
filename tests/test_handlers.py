"""Handlers under a real engine: seeds, the order of patients, warm-up, loss terms."""

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.method.terms import DistillationLoss
from scripts.training.handlers import EpochSeed, FiniteLoss, LossTerms, WarmUp


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
    loss = DistillationLoss({})
    seen = []
    engine = engine_of(lambda engine, batch: seen.append(loss.distilling))
    WarmUp(loss, epochs=2).attach(engine)
    engine.run([0], max_epochs=4)
    assert seen == [False, False, True, True]


def test_loss_terms_are_epoch_means():
    loss = DistillationLoss({})

    def step(engine, batch):
        loss.values = {"a": torch.tensor(float(batch)), "b": torch.tensor(1.0)}

    engine = engine_of(step)
    LossTerms(loss).attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    engine.run([1, 4], max_epochs=2)
    assert seen == [{"loss/a": 2.5, "loss/b": 1.0, "loss/total": 3.5}] * 2


def sampler(seed):
    """The sampler of configs/multi_gpu_train.yaml for rank 0 of two, over eight patients."""
    config = ConfigParser.load_config_file(BUNDLE / "configs" / "multi_gpu_train.yaml")
    settings = config["train::dataloader::sampler"] | {"num_replicas": 2}
    return ConfigParser(
        {"seed": seed, "rank": 0, "train": {"dataset": list(range(8))}, "sampler": settings}
    ).get_parsed_content("sampler")


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


@pytest.mark.parametrize("losses, broken", [([1.0, 2.0], None), ([1.0, float("nan")], 1), ([float("inf")] * 2, 2)])
def test_a_loss_that_is_not_finite_ends_the_run_after_its_epoch(losses, broken):
    steps = []

    def step(engine, batch):
        steps.append(batch)
        return {"loss": torch.tensor(batch)}

    engine = engine_of(step)
    FiniteLoss().attach(engine)
    if broken:
        with pytest.raises(UserError, match=f"{broken} step.* of epoch 1: .*--learning_rate"):
            engine.run(losses, max_epochs=2)
    else:
        engine.run(losses, max_epochs=2)
    assert len(steps) == (2 if broken else 4)
