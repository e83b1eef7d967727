"""Recipes: what they become, and what is said of those that cannot be."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from matchcut.data.clips import ClipConfig
from matchcut.errors import TrainingError
from matchcut.training.config import OptimiserConfig, ScheduleConfig, TrainConfig, flat, parse, read_config
from matchcut.training.objectives import OBJECTIVES


def read(tmp_path: Path, text: str) -> TrainConfig:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_a_recipe_becomes_a_config(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        objective = "toy"
        epochs = 4
        average = 0
        [data]
        stride = [1, 3]
        scale = [0.5, 1]
        [optimiser]
        name = "adamw"
        rates = { encoder = 1e-5, "decoder.head" = 0 }
        [schedule]
        name = "step"
        [settings]
        anything = [1, "b"]
        """,
    )
    assert config.data == ClipConfig(stride=(1, 3), scale=(0.5, 1.0))
    assert type(config.data.scale[1]) is float and type(config.average) is float
    assert config.optimiser == OptimiserConfig("adamw", rates={"encoder": 1e-5, "decoder.head": 0.0})
    assert config.schedule == ScheduleConfig("step")
    assert config.settings == {"anything": [1, "b"]}
    keys = flat(config)
    assert keys["optimiser.rates.encoder"] == 1e-5 and keys["data.stride"] == [1, 3] and keys["epochs"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "objective = 'a'\nepochs = 1\nbatchsize = 2",
            r"unknown key 'batchsize'; did you mean batch_size\? known are obj",
        ),
        ("objective = 'a'\nepochs = 1\n[data]\nlenght = 2", r"\[data\]: unknown key 'lenght'; did you mean length"),
        ("objective = 'a'", "the key 'epochs' is missing"),
        ("objective = 'a'\nepochs = 1.5", "epochs = 1.5: expected a whole number"),
        ("objective = 'a'\nepochs = true", "epochs = True: expected a whole number"),
        ("objective = 3\nepochs = 1", "objective = 3: expected a text in quotes"),
        ("objective = 'a'\nepochs = 1\naverage = 'x'", "average = 'x': expected a number"),
        ("objective = 'a'\nepochs = 1\nprecision = 'half'", 'expected "float32" or "bfloat16"'),
        ("objective = 'a'\nepochs = 1\ndata = 3", "data = 3: expected a table"),
        ("objective = 'a'\nepochs = 1\n[data]\nstride = [1]", r"stride = \[1\]: expected a list of 2, each a whole"),
        ("objective = 'a'\nepochs = 1\n[data]\nstride = [1, 'a']", "stride = 'a': expected a whole number"),
        (
            "objective = 'a'\nepochs = 1\n[data]\nstride = [3, 1]",
            r"\[data\]: stride \[3, 1\]: expected two whole numbers",
        ),
        ("objective = 'a'\nepochs = 1\n[optimiser.rates]\na = 'b'", "rates.a = 'b': expected a number"),
        ("objective = 'a'\nepochs = 0", "must be 1 or more"),
        ("objective = 'a'\nepochs = 1\naverage = 1.0", "average 0 to below 1"),
        ("objective = ", "is not TOML"),
    ],
)
def test_a_faulty_recipe_is_one_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "recipe.toml")) and "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no\.toml: cannot be read as a recipe"):
        read_config(tmp_path / "no.toml")


def test_objectives_read_their_settings_alike() -> None:
    @dataclass(frozen=True)
    class Settings:
        weights: tuple[float, ...] = (1.0,)

    assert parse(Settings, {"weights": [1, 2, 3]}, "settings") == Settings((1.0, 2.0, 3.0))
    with pytest.raises(TrainingError, match="settings: unknown key 'weight'; did you mean weights"):
        parse(Settings, {"weight": [1]}, "settings")


def test_the_recipe_and_the_objective_of_the_docs_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert parse(TrainConfig, tomllib.loads(recipe), "docs").optimiser.rates == {"encoder": 1e-5}
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with patch.dict(OBJECTIVES):
        exec(compile(example, "docs/train.md", "exec"), {})
        assert "alike" in OBJECTIVES
