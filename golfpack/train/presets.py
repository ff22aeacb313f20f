"""Presets: a family, its shape and how it is trained, as TOML files that come with golfpack.

A file has `about`, `family`, and the tables [model] (options of the family), [train] (`TrainConfig`) and
[data] (`DataOptions`). A file with [variants.NAME] tables is several presets, `FILE-NAME`; a variant's
`model` and `train` stand before the file's. "none" stands for no value.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json
from golfpack.errors import UsageError, unreadable


@dataclass(frozen=True)
class Preset:
    """A preset as its file has it, unchecked but for its form.

    Attributes:
        name: as it is typed.
        about: one sentence on what it is.
        family: name of the model family.
        model: options of the family.
        train: settings of `TrainConfig`.
        data: settings of `DataOptions`.
    """

    name: str
    about: str
    family: str
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Variant:
    about: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    about: str
    family: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, _Variant] = field(default_factory=dict)


def preset_names() -> list[str]:
    """Names of the presets that come with golfpack."""
    return sorted(name for path in _shipped() for name in _of(path, path.read_text("utf-8")))


def load_preset(name_or_path: str) -> Preset:
    """A preset by name, or the one in a .toml file.

    Raises:
        UsageError: no such name or file, or the file is no preset.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            found = _of(path, path.read_text(encoding="utf-8"))
        except OSError as error:
            raise unreadable(path, error, "preset ") from error
        if len(found) > 1:
            raise UsageError(f"{path} has variants", "keep one to a file")
        return next(iter(found.values()))
    for path in _shipped():
        if (found := _of(path, path.read_text("utf-8")).get(name_or_path)) is not None:
            return found
    names = preset_names()
    close = difflib.get_close_matches(name_or_path, names, 3)
    raise UsageError(
        f"there is no preset {name_or_path!r}",
        f"did you mean {' or '.join(close)}?" if close else f"presets: {', '.join(names)}",
    )


def _shipped() -> list[Path]:
    folder = resources.files("golfpack") / "presets"
    return [Path(str(f)) for f in folder.iterdir() if f.name.endswith(".toml")]


def _of(path: Path, text: str) -> dict[str, Preset]:
    """The presets of a file, by name."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "see docs/training.md") from error
    file = from_json(_File, _without_nones(table), str(path), "see docs/training.md")
    for kind, keys in (
        (_File, table),
        *((_Variant, v) for v in table.get("variants", {}).values()),
    ):
        if unknown := sorted(keys.keys() - {f.name for f in fields(kind)}):
            what = f"{path} has {unknown[0]!r}, which no preset has"
            raise UsageError(what, "see docs/training.md")
    if not file.variants:
        preset = Preset(path.stem, file.about, file.family, file.model, file.train, file.data)
        return {path.stem: preset}
    return {
        f"{path.stem}-{name}": Preset(
            f"{path.stem}-{name}", variant.about, file.family, {**file.model, **variant.model},
            {**file.train, **variant.train}, file.data,
        )
        for name, variant in file.variants.items()
    }  # fmt: skip


def _without_nones(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {k: _without_nones(v) for k, v in value.items()}
    return None if value == "none" else value
