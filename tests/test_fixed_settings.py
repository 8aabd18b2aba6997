"""What a resumed run may not change."""

from scripts.training import fixed_settings
from scripts.training.fixed_settings import learning_settings


def test_settings_by_any_way_are_fixed(tmp_path, monkeypatch):
    """Keys of the user's own to which the loss refers, and keys inside of the engine."""
    (tmp_path / "list.json").write_text("{}")

    def settings(own=0.2, batch="@batch_size", epochs="@epochs"):
        loss = {"terms": {"student": {"weight": "@my_weight"}}}
        train = {"dataloader": {"batch_size": batch}, "trainer": {"max_epochs": epochs}}
        config = {"loss": loss, "my_weight": "$2 * @my_base", "my_base": own, "other": 1, "train": train}
        monkeypatch.setattr(fixed_settings, "merged_config", lambda: config)
        return learning_settings(str(tmp_path / "list.json"), [])

    first = settings()
    assert settings(epochs=9) == first
    assert {key for key, value in settings(own=2.0).items() if first[key] != value} == {"my_base"}
    assert {key for key, value in settings(batch=4).items() if first[key] != value} == {"train::dataloader::batch_size"}


def test_what_cuts_and_scores_patients_is_fixed(tmp_path, monkeypatch):
    """Else Dice of other windows would choose model.pt."""
    (tmp_path / "list.json").write_text("{}")

    def settings(**changed):
        config = {"pad": {"spatial_size": [64]}, "read_label": "a", "window_size": [64], "overlap": 0.25}
        config |= {"mirror": False, "whole_volume": 0, "train": {"sampler": {"share": None}}}
        monkeypatch.setattr(fixed_settings, "merged_config", lambda: config | changed)
        return learning_settings(str(tmp_path / "list.json"), [])

    first = settings()
    changes = {"pad": {"spatial_size": [32]}, "window_size": [32], "train": {"sampler": {"share": 0.5}}}
    for key, value in (changes | {"read_label": "b", "overlap": 0.5, "mirror": True, "whole_volume": 9}).items():
        assert [name for name in first if first[name] != settings(**{key: value}).get(name)], key


def test_training_cases_and_stored_targets_are_fixed_wherever_they_lie(tmp_path, monkeypatch):
    (tmp_path / "list.json").write_text("{}")

    def settings(folder, names=("a", "b"), text="0"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_text(text)
        monkeypatch.setattr(fixed_settings, "merged_config", lambda: {"targets": str(tmp_path / folder)})
        cases = [{"case": name, "image": "x"} for name in names]
        return learning_settings(
            str(tmp_path / "list.json"), [cases[0] | {"targets": str(tmp_path / folder / "a.nii.gz")}, *cases[1:]]
        )

    def differing(other):
        return [key for key in first if first[key] != other[key]]

    first = settings("first")
    assert differing(settings("moved")) == differing(settings("order", ("a", "b"))) == []
    assert differing(settings("fewer", ("a",))) == ["training cases"]
    assert differing(settings("other", text="00")) == ["files of targets"]
    assert differing(learning_settings(str(tmp_path / "list.json"), [{"image": "a"}, {"image": "b"}])) == [
        "files of targets"
    ]
