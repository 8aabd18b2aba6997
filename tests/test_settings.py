"""Settings are checked before anything is built."""

import pytest

from scripts.errors import UserError
from scripts.settings import check_settings


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1"),
        ({"roi_size": [60, 64, 64]}, r"roi_size is \[60, 64, 64\], expected three multiples of 8"),
        ({"roi_size": 64}, "roi_size is 64"),
        ({"spacing": [2, 2]}, r"spacing is \[2, 2\], expected three positive numbers"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"dataset_dir": "/no/such/folder"}, "dataset_dir is '/no/such/folder', expected a folder that exists"),
        ({"et_label": 5}, "et_label is 5, expected 3 or 4"),
        ({"strict": "no"}, "strict is 'no', expected True or False"),
        ({"patch_ratios": [3, 1]}, "patch_ratios is .* expected four numbers of at least 0"),
        ({"seed": "abc"}, "seed is 'abc', expected a whole number"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3', expected a number of at least 0, in YAML 1.0e-3"),
        ({"student_widths": 8}, "student_widths is 8, expected four numbers of channels"),
        ({"student_widths": [8, 16, 32, 62]}, "expected four numbers of channels, multiples of 4 or 6"),
        ({"output_dir": __file__}, "output_dir is .*test_settings.py', expected a folder"),
        ({"output_dir": f"{__file__}/within"}, "output_dir is .*within', expected a folder that may be written to"),
        ({"student_sequence": "t3"}, "student_sequence is 't3', expected one of flair, t1, t1ce, t2, or a list"),
        ({"sequences": ["flair", "t5"]}, "sequences is .*, expected a list of flair, t1, t1ce, t2"),
        ({"val_interval": 0}, "val_interval is 0, expected a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers is -1, expected a whole number of at least 0"),
        ({"deep_supervision": 3}, "deep_supervision is 3, expected 0, 1 or 2 heads"),
        ({"backend": "ncl"}, "backend is 'ncl', expected one of this machine: gloo, or nccl"),
        ({"cache": "ram"}, 'cache is .ram., expected "disk", "memory" or "none"'),
        ({"lr_from_validation": "no"}, "lr_from_validation is 'no', expected True or False"),
        ({"ckpt_path": "none.pt"}, "ckpt_path is 'none.pt', expected a file that exists"),
    ],
)
def test_values_that_would_fail_later_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_settings(**settings)


def test_good_values_pass(tmp_path):
    settings = {"epochs": 1, "fold": 0, "roi_size": [64, 64, 8], "spacing": None, "overlap": 0.5}
    assert check_settings(**settings, dataset_dir=str(tmp_path)) is None
    assert check_settings(spacing=[1.5, 2, 2], et_label=3, resume=True, batch_size=2) is None
