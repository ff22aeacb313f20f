"""From what the user asked for to a run: --preset, --family, --model, --shape, --set and others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golfpack.artifact import split_settings
from golfpack.base.convert import make, parse_value
from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.choose import choose_family
from golfpack.models.device import resolve_device
from golfpack.train.config import TrainConfig
from golfpack.train.presets import Preset, load_preset
from golfpack.train.run import training_of
from golfpack.train.shapes import options_of, read_shape, refuse_measures
from golfpack.train.sources import DataOptions

DEFAULT_STEPS = 1000
DEFAULT_FAMILY = "golf"
_BUDGETS = ("steps", "minutes")
# What an option of its own says, or a setting, but not both.
_ALONE = (*_BUDGETS, "seed", "budget", "compile_mode")
# What `--for` sets: what lowered the artifact's bpb at equal bytes and time (docs/training.md).
FOR_AN_ARTIFACT: Mapping[str, Any] = {"codes_share": 0.1}


@dataclass(frozen=True)
class TrainOptions:
    """What to train on and where to; see `golfpack train --help`.

    Attributes:
        out: folder of the run; None where only a plan is asked for.
        preset: name of a preset, or a .toml file; what is given beside it stands before it.
        family: name of a model family, or "FILE.py:CLASS"; None: the preset's, or golf.
        model_args: keyword arguments of CLASS.
        shape: layers x width, as "6x256", or see `Shape`; None: the preset's, or the family's own. Where
            it names no table, a preset's stays.
        data: what to train on, as far as it was given.
        seed: None: the preset's, or 0.
        compile_mode: of torch.compile, or None.
        budget: size of the artifact that the run is for, or None.
        settings: "model.option=value" (the family's config), "train.option=value" (TrainConfig) and
            "data.option=value" (DataOptions).
        argv: of the command, for the log.
        tensorboard: write the log's scalars for TensorBoard, too.
    """

    out: Path | None = None
    preset: str | None = None
    family: str | None = None
    model_args: tuple[str, ...] = ()
    shape: str | None = None
    data: DataOptions = field(default_factory=DataOptions)
    steps: int | None = None
    minutes: float | None = None
    seed: int | None = None
    threads: int = 1
    device: str = "cpu"
    resume: bool = False
    budget: str | None = None
    settings: tuple[str, ...] = ()
    compile_mode: str | None = None
    argv: list[str] = field(default_factory=list)
    tensorboard: bool = False


@dataclass(frozen=True)
class Chosen:
    """A run as it is to be, before any data are read.

    Attributes:
        preset: its name, or None.
        family: of the model.
        shape: options of the family, which may lack what the tokenizer tells.
        config: how to train.
        data: what on.
    """

    preset: str | None
    family: Family
    shape: Mapping[str, Any]
    config: TrainConfig
    data: DataOptions


def choose(options: TrainOptions) -> Chosen:
    """The run that the options ask for.

    Raises:
        UsageError: an unknown name, an unusable option, or a preset of another family.
    """
    preset = None if options.preset is None else load_preset(options.preset)
    family = _family(options, preset)
    model_settings, rest = split_settings(options.settings)
    given = {prefix: _settings(rest, prefix) for prefix in ("train.", "data.")}
    _refuse_others(rest)
    _refuse_twice(options, given["train."])
    training = training_of(family)
    shape = training.shape if preset is None else preset.model
    if options.shape is not None:
        refuse_measures(family, model_settings)
        shape = {**shape, **options_of(family, read_shape(options.shape))}
    own = {} if preset is None else preset.data
    data = make(DataOptions, own, "the preset's [data]")
    data = data.with_given(options.data)
    data = make(DataOptions, {**vars(data), **given["data."]}, "data")
    config = _config(options, preset, given["train."])
    name = None if preset is None else preset.name
    return Chosen(name, family, {**shape, **model_settings}, config, data)


def _family(options: TrainOptions, preset: Preset | None) -> Family:
    asked = options.family or (DEFAULT_FAMILY if preset is None else preset.family)
    if preset is not None and asked != preset.family:
        raise UsageError(
            f"preset {preset.name} is of the family {preset.family}, not {asked}",
            "leave out --family and --model with --preset",
        )
    family = choose_family(asked, options.model_args)
    assert family is not None  # one is always asked for
    return family


def _config(
    options: TrainOptions, preset: Preset | None, settings: Mapping[str, Any]
) -> TrainConfig:
    values = dict({} if preset is None else preset.train)
    budget = {name: v for name in _BUDGETS if (v := getattr(options, name)) is not None}
    budget |= {name: settings[name] for name in _BUDGETS if name in settings}
    if not budget:
        budget = {name: values[name] for name in _BUDGETS if name in values}
    values = {k: v for k, v in values.items() if k not in _BUDGETS}
    values |= budget or {"steps": DEFAULT_STEPS}
    if options.seed is not None:
        values["seed"] = options.seed
    values["threads"] = options.threads
    values["device"] = resolve_device(options.device).name
    if options.compile_mode is not None:
        values["compile_mode"] = options.compile_mode
    if options.budget is not None:
        values |= {**FOR_AN_ARTIFACT, "budget": options.budget}
    values |= settings
    return make(TrainConfig, values, "train")


def _settings(settings: list[str], prefix: str) -> dict[str, Any]:
    """The values behind "PREFIXname=value"."""
    pairs = (s.removeprefix(prefix).partition("=") for s in settings if s.startswith(prefix))
    return {name: parse_value(value) for name, _, value in pairs}


def _refuse_twice(options: TrainOptions, settings: Mapping[str, Any]) -> None:
    for name in _ALONE:
        if getattr(options, name) is not None and name in settings:
            flag = "--for" if name == "budget" else f"--{name}"
            raise UsageError(
                f"{flag} and train.{name} say the same thing twice", "give one of them"
            )


def _refuse_others(settings: list[str]) -> None:
    for setting in settings:
        if not setting.startswith(("train.", "data.")):
            raise UsageError(
                f"--set {setting!r} sets nothing here",
                "use model.OPTION, train.OPTION or data.OPTION",
            )
