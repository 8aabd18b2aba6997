"""CDSFL against its published size and its equation."""

import pytest
import torch

from scripts.method.fusion import CooperativeFusion


def test_the_paper_fusion_has_its_published_number_of_parameters():
    fusion = CooperativeFusion({"flair": [64], "t2": [64], "t1": [64]})
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 2540


def test_fusion_is_a_projected_sum_over_teachers_at_each_level():
    fusion = CooperativeFusion({"a": [16, 32], "b": [24, 16]}, num_classes=3)
    features = {
        "a": [torch.randn(2, 16, 4, 4, 4), torch.randn(2, 32, 2, 2, 2)],
        "b": [torch.randn(2, 24, 4, 4, 4), torch.randn(2, 16, 2, 2, 2)],
    }
    for level, fused in zip(fusion.levels, fusion(features)):
        index = list(fusion.levels).index(level)
        expected = 0
        for name in ("a", "b"):
            gated = level.attention[name](features[name][index])
            weight, bias = level.project[name].weight[:, :, 0, 0, 0], level.project[name].bias
            expected = expected + torch.einsum("kc,bcxyz->bkxyz", weight, gated) + bias[:, None, None, None]
        expected = torch.einsum("kc,bcxyz->bkxyz", level.head.weight[:, :, 0, 0, 0], expected)
        torch.testing.assert_close(fused, expected + level.head.bias[:, None, None, None])


@pytest.mark.parametrize("channels", [{}, {"a": []}, {"a": [8], "b": [8, 16]}])
def test_teachers_must_agree_in_levels(channels):
    with pytest.raises(ValueError, match="same number of feature levels"):
        CooperativeFusion(channels)


def test_a_teacher_whose_channels_are_none_is_not_in_the_fusion():
    fusion = CooperativeFusion({"a": [16], "b": None})
    assert fusion.teachers == ["a"] == list(fusion.levels[0].project)
