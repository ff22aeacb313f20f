"""Opening what a path names: a checkpoint or an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.base.convert import parse_value
from golfpack.errors import (
    CorruptError,
    UsageError,
)
from golfpack.models import (
    detect,
    find_family,
)
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.user.choice import current_choice
from golfpack.models.user.family import (
    USER,
    check_form,
    chosen_class,
)
from golfpack.packer.format.loader import (
    Artifact,
    is_artifact,
    load,
)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory, from a checkpoint or from an artifact."""

    family: str
    config: dict[str, Any]
    weights: Mapping[str, np.ndarray]
    sha256: str
    assumed: dict[str, Any]


def open_model(path: Path, settings: tuple[str, ...] = ()) -> LoadedModel:
    """Read a checkpoint or an artifact, whichever the file is.

    Raises:
        UsageError, CorruptError: as `load_checkpoint` and `load`.
    """
    overrides = _model_settings(settings)
    if not names_artifact(path):
        return _open_checkpoint(path, overrides)
    if overrides:
        raise UsageError(
            "an artifact carries its model's options; --set model... cannot change them",
            "set them when building",
        )
    artifact = load(path)
    _check_choice(artifact, path)
    config = check_against_family(artifact)
    return LoadedModel(artifact.family, config, artifact.weights(), artifact.container.sha256, {})


def open_pair(
    path: Path, float_path: Path | None, settings: tuple[str, ...] = ()
) -> tuple[LoadedModel, LoadedModel | None]:
    """A model, and the float checkpoint it is to be held against, if any.

    Beside an artifact the settings are those of the float checkpoint; what its shapes leave open and
    no setting tells is as the artifact says.

    Raises:
        UsageError: as `open_model`, or the float checkpoint is not of the artifact's model.
        CorruptError: a damaged artifact.
    """
    if float_path is None:
        return open_model(path, settings), None
    if not names_artifact(path):
        return open_model(path, settings), open_model(float_path, settings)
    packed = open_model(path)
    return packed, open_original(packed, float_path, settings)


def open_original(packed: LoadedModel, path: Path, settings: tuple[str, ...] = ()) -> LoadedModel:
    """The float checkpoint of an artifact's model.

    What its shapes leave open and no setting tells is as the artifact says.

    Raises:
        UsageError: as `open_model`, or its tensors are others.
    """
    overrides = _left_open(packed) | _model_settings(settings)
    original = _open_checkpoint(path, overrides, packed.family)
    _check_same_tensors(packed, original, path)
    return original


def _check_choice(artifact: Artifact, path: Path) -> None:
    """Raise UsageError where `--model` says something else than an artifact does."""
    choice = current_choice()
    if choice is None:
        return
    if choice.family != artifact.family:
        raise UsageError(
            f"{path} holds a model of family {artifact.family}, not {choice.family}",
            "leave --model out: an artifact says what it is",
        )
    if choice.family == USER.name:
        chosen_class(str(artifact.config.get("class_name")))


def names_artifact(path: Path) -> bool:
    """Whether a file is to be read as an artifact: by its first bytes, or by its name."""
    return is_artifact(path) or path.suffix == ".golf"


def _open_checkpoint(
    path: Path, overrides: Mapping[str, Any], family: str | None = None
) -> LoadedModel:
    c = load_checkpoint(path, overrides, family)
    return LoadedModel(c.family, c.config, c.weights, c.sha256, c.assumed)


def _left_open(model: LoadedModel) -> dict[str, Any]:
    """The config values that a checkpoint of this model does not tell by its shapes."""
    shapes = {n: torch.empty(w.shape, device="meta") for n, w in model.weights.items()}
    try:
        told = find_family(model.family).infer(shapes, {})
    except UsageError:  # shapes leave a dimension open: then all of the config is needed
        return model.config
    return {k: v for k, v in model.config.items() if k not in told}


def _check_same_tensors(packed: LoadedModel, original: LoadedModel, path: Path) -> None:
    for name in {**packed.weights, **original.weights}:
        shapes = [m.weights[name].shape if name in m.weights else None for m in (packed, original)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{path} is not of the artifact's model: tensor {name!r} is {shapes[1] or 'absent'} "
                f"in it, {shapes[0] or 'absent'} in the artifact",
                "give the checkpoint the artifact was built from",
            )


def check_against_family(artifact: Artifact) -> dict[str, Any]:
    """The artifact's complete config, which must be what its tensors tell; and they must all be there.

    The config is checked against the shapes before anything is built from it: one that lies could ask
    for any amount of memory. Options that the artifact is older than take their defaults.

    Raises:
        CorruptError: the config and the tensors are of no model, or contradict each other.
    """
    shapes = {n: torch.empty(e.shape, device="meta") for n, (e, _) in artifact.tensors.items()}
    try:
        if artifact.family == USER.name:
            check_form(artifact.config)
            if current_choice() is None:
                return artifact.config  # nothing of the user's runs unasked
        family, config = detect(shapes, artifact.family, artifact.config)[:2]
    except UsageError as e:
        raise CorruptError(f"the artifact holds no usable model: {e.message}", e.hint) from e
    if missing := sorted(set(config) - set(artifact.config) - family.newer):
        raise CorruptError(f"the artifact's config lacks {', '.join(missing)}", None)
    if mistyped := [k for k, v in artifact.config.items() if config[k] != v]:
        raise CorruptError(f"the artifact's config holds no proper {', '.join(mistyped)}", None)
    return config


def _model_settings(settings: Sequence[str]) -> dict[str, Any]:
    model, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    return model


def split_settings(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`--set` values: those of the model, by option name, and the rest as they are.

    Raises:
        UsageError: a setting without "=".
    """
    model, rest = {}, []
    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq:
            raise UsageError(f"--set {setting!r} has no value", "use --set KEY=VALUE")
        if key.startswith("model."):
            model[key.removeprefix("model.")] = parse_value(value)
        else:
            rest.append(setting)
    return model, rest


def checkpoint_stem(path: Path) -> str:
    """A checkpoint's file name without its format: "a/b.int8.ptz" -> "b"."""
    return path.name.removesuffix(path.suffix).removesuffix(".int8")
