import pytest
import torch

from mean_weights import mean_weights
from scripts.errors import UserError


def test_each_weight_is_the_mean_of_the_students(tmp_path):
    paths = [str(tmp_path / f"{number}.pt") for number in range(2)]
    for path, value in zip(paths, (1.0, 4.0)):
        steps = torch.tensor(int(value))  # as batch norm counts them
        torch.save({"a.weight": torch.full((2, 3), value), "a.bias": torch.tensor([value, -value]), "n": steps}, path)
    mean_weights(",".join(paths), str(tmp_path / "mean.pt"))
    mean = torch.load(tmp_path / "mean.pt", weights_only=True)
    assert mean["a.weight"].tolist() == [[2.5] * 3] * 2 and mean["a.bias"].tolist() == [2.5, -2.5]
    assert mean["n"] == 1


def test_weights_that_do_not_fit_together_are_named(tmp_path):
    for name, size in (("a", 2), ("b", 3)):
        torch.save({"weight": torch.zeros(size)}, tmp_path / f"{name}.pt")
    for paths, message in ((f"{tmp_path}/a.pt,{tmp_path}/b.pt", "b.pt.*a.pt"), (f"{tmp_path}/a.pt,no.pt", "no.pt")):
        with pytest.raises(UserError, match=message):
            mean_weights(paths, str(tmp_path / "mean.pt"))
    assert not (tmp_path / "mean.pt").exists()
