"""Settings are checked before anything is built, and misspelt options refused."""

import pytest

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.preflight import bundle_options, check_settings, command_line_options, refuse_unknown_keys

TRAIN = str(BUNDLE / "configs" / "train.yaml")
MAIN = "site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epocs", "9"], "--epocs is not a key of .*did you mean --epochs"),
        (["--learning-rte=0.1"], "--learning_rte .*did you mean --learning_rate"),
        (["--fusion", "None"], r"--fusion None is ignored by MONAI: pass --fusion '\$None'"),
        (["--networkdef::widths", "[8,8,8,8]"], "--networkdef::widths .*did you mean --network_def"),
        (["--network_def::atention", "cbam"], "--network_def::atention: there is no atention .*did you mean attention"),
        (["--train::trainr::max_epochs", "2"], "no trainr to set; did you mean trainer"),
        (["--train::handlers::99::seed", "2"], "no 99 to set; did you mean 9"),
        (["--network_def::attention::kind", "cbam"], "no kind to set; the config has a single value there"),
    ],
)
def test_misspelt_options_are_refused_with_the_nearest_key(arguments, message):
    with pytest.raises(UserError, match=message):
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", TRAIN, *arguments]))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--epochs", "9", "--network_def::widths", "[8,8,8,8]", "--network_def#attention=cbam"],
        ["--network_def::in_channels", "2", "--teachers::second", "{}", "--train::inferer::network_wrapper", "x"],
        ["--train::trainer::compile", "True", "--train::handlers::0::seed", "2"],
        ["--meta_file", "x.json", "--tracking", "mlflow", "--run_name", "first"],
    ],
)
def test_known_options_pass(arguments):
    assert (
        refuse_unknown_keys(bundle_options([MAIN, "run", "training", "--config_file", f"['{TRAIN}']", *arguments]))
        is None
    )


def test_programs_other_than_the_bundle_command_are_not_judged():
    assert refuse_unknown_keys(bundle_options(["pytest", "--config_file", TRAIN, "--epocs", "9"])) is None


def test_options_are_read_as_fire_does():
    line = ["run", "--a-b", "1", "--c=x=y", "--d"]
    assert command_line_options(line) == {"a_b": "1", "c": "x=y", "d": ""}


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
