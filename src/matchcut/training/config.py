"""Recipes: a TOML file becomes a frozen `TrainConfig`; what it does not know, or knows as another type, is an error."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from matchcut.data.clips import ClipConfig
from matchcut.errors import TrainingError

T = TypeVar("T")

FREE = frozenset({"workers", "log_every", "pictures_every", "save_minutes", "data.cache"})
"""Keys that change no number: a run may be resumed with others."""


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are changed."""

    name: Literal["adam", "adamw"] = "adam"
    rate: float = 1e-4
    """Learning rate."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Other rates for parts of the network: names of modules or parameters, the longest that fits counts; 0 freezes."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 0.0
    """Largest norm of the gradients of all parameters together; 0: as it comes."""

    def __post_init__(self) -> None:
        if min(self.rate, self.weight_decay, self.clip, *self.rates.values()) < 0:
            raise ValueError("rate, rates, weight_decay and clip must be 0 or more")
        if not (0 <= self.betas[0] < 1 and 0 <= self.betas[1] < 1):
            raise ValueError(f"betas {list(self.betas)}: expected two numbers from 0 to below 1")


@dataclass(frozen=True)
class ScheduleConfig:
    """What the learning rates are multiplied by over time."""

    name: Literal["constant", "step", "cosine"] = "constant"
    warmup: float = 0.0
    """Epochs in which the rates rise linearly from 0."""
    every: int = 100
    """Of "step": epochs after which the rates are multiplied by `factor`, again and again."""
    factor: float = 0.5

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.every < 1 or self.factor <= 0:
            raise ValueError("warmup must be 0 or more, every 1 or more, factor above 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: with the data it decides every number, save `FREE`."""

    objective: str
    """What is trained: a name in `OBJECTIVES`."""
    epochs: int
    batch_size: int = 16
    """Clips that one process takes at once; a step takes batch_size x accumulate x processes."""
    accumulate: int = 1
    """Batches whose gradients are averaged before a step: as a larger batch, in less memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and their updates stay float32."""
    average: float = 0.0
    """Decay a step of the moving average of the weights, which is what `weights.safetensors` then holds; 0: none."""
    weights: str = ""
    """A `weights.safetensors` of another run of the same network to start from."""
    seed: int = 0
    workers: int = 2
    """Processes that read and draw clips, for each process that trains; 0: it does so itself."""
    log_every: int = 50
    """Steps between two progress lines."""
    pictures_every: int = 10
    """Epochs between two sets of pictures."""
    save_minutes: float = 10.0
    """Between two checkpoints; 0: one after every step."""
    data: ClipConfig = field(default_factory=ClipConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The objective's own; it says which there are."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.accumulate, self.log_every, self.pictures_every) < 1:
            raise ValueError("epochs, batch_size, accumulate, log_every and pictures_every must be 1 or more")
        if min(self.seed, self.workers, self.save_minutes) < 0 or not 0 <= self.average < 1:
            raise ValueError("seed, workers and save_minutes must be 0 or more, average 0 to below 1")


def read_config(path: Path) -> TrainConfig:
    """A recipe from a TOML file.

    Raises:
        TrainingError: it cannot be read, has an unknown key, or a value that is missing or cannot be.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read as a recipe ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: is not TOML: {error}") from error
    return parse(TrainConfig, table, str(path))


def parse(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table as TOML gives it; `where` begins the message of an error.

    Lists become tuples, whole numbers floats where floats are expected. Objectives read their own settings with it.

    Raises:
        TrainingError: an unknown key, a missing one, a value of another type, or one the dataclass refuses.
    """
    assert is_dataclass(kind)
    hints, known = get_type_hints(kind), [one.name for one in fields(kind)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TrainingError(f"{where}: unknown key {key!r}; {hint}known are {', '.join(known)}")
    for one in fields(kind):
        if one.name not in table and one.default is MISSING and one.default_factory is MISSING:
            raise TrainingError(f"{where}: the key {one.name!r} is missing")
    values = {key: _value(hints[key], value, where, key) for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as `hint` wants it."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return parse(hint, value, f"{where}: [{key}]")  # type: ignore[arg-type]
    if origin is Literal and value in inner:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        if len(kinds) == len(value):
            return tuple(_value(one, item, where, key) for one, item in zip(kinds, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _value(inner[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise TrainingError(f"{where}: {key} = {value!r}: expected {_wanted(hint)}")


def _wanted(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    names = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
    if hint in names:
        return names[hint]
    if origin is Literal:
        return " or ".join(f'"{one}"' for one in inner)
    if origin is tuple:
        return "a list of " + ("" if inner[-1] is ... else f"{len(inner)}, each ") + _wanted(inner[0])
    return "a table"


def flat(config: TrainConfig) -> dict[str, Any]:
    """All keys of a recipe, dotted, with their values; lists instead of tuples, as JSON has it."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {name: one for key, item in value.items() for name, one in walk(f"{prefix}.{key}", item).items()}
        return {prefix[1:]: list(value) if isinstance(value, tuple) else value}

    return walk("", asdict(config))
