"""Recipes: TOML files that list passes and their options. `recipes/` holds those we ship."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from golfpack.base.convert import make, parse_value
from golfpack.errors import (
    UsageError,
    unreadable,
)
from golfpack.packer.passes.awq import Awq
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.lowrank import Correct
from golfpack.packer.passes.mix import Mix
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.prune import (
    PruneMagnitude,
    PruneOnes,
)
from golfpack.packer.passes.quantize import (
    Clip,
    Round,
    Sense,
    Steps,
)
from golfpack.packer.search import Fit
from golfpack.packer.state import Pass

PASSES: dict[str, type[Pass]] = {
    p.name: p
    for p in (
        Policy, PruneMagnitude, Awq, Sense, Mix, Clip, Fit, Steps, Round, Correct, PruneOnes, Encode,
    )
}  # fmt: skip
CALIBRATIONS = ("none", "inputs", "gradients")
# What `fit` runs for every dial.
_BODY = ("steps", "round", "encode")
# Fields of passes that are no options.
_HIDDEN = frozenset({"body"})


@dataclass(frozen=True)
class Recipe:
    """A named list of passes, with what it needs from calibration.

    Attributes:
        calibration: what it needs: "none", "inputs" (Hessians) or "gradients" (Fisher weights as
            well, which takes a backward pass).
        passes: in order; a `Fit` among them owns those behind it.
    """

    name: str
    about: str
    calibration: str
    passes: tuple[Pass, ...]

    @property
    def gradients(self) -> bool:
        return self.calibration == "gradients"


def recipe_names() -> list[str]:
    """Names of the recipes that come with golfpack."""
    folder = resources.files("golfpack") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a .toml file by path, with `pass.option=value` settings applied.

    Raises:
        UsageError: no such recipe, not TOML, unknown pass or option, a value of the wrong type.
    """
    text, origin = _read(name_or_path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"recipe {origin} is not valid TOML: {e}", "see docs/recipes.md") from e
    return make_recipe({"name": Path(name_or_path).stem, **table}, origin, settings)


def make_recipe(table: Mapping[str, Any], origin: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe that a table as of a recipe file describes; `origin` is for messages.

    Raises:
        UsageError: unknown pass or option, a value of the wrong type, passes in no usable order.
    """
    entries = table.get("pass")
    if (
        not entries
        or not isinstance(entries, list)
        or not all(isinstance(e, dict) for e in entries)
    ):
        raise UsageError(f"recipe {origin} lists no passes", "add [[pass]] tables with an id")
    calibration = table.get("calibration", "inputs")
    if calibration not in CALIBRATIONS:
        raise UsageError(
            f"recipe {origin}: calibration cannot be {calibration!r}",
            f"it is one of {', '.join(CALIBRATIONS)}",
        )
    entries = _with_settings(entries, settings)
    passes = tuple(_make_pass(entry, origin) for entry in entries)
    return Recipe(
        name=str(table["name"]),
        about=str(table.get("about", "")),
        calibration=calibration,
        passes=_nest(passes, origin),
    )


def pass_tables(recipe: Recipe) -> list[dict[str, Any]]:
    """The passes as a recipe file lists them, with every option: `make_recipe` reads them again."""
    return [
        {"id": p.name, **{f.name: getattr(p, f.name) for f in fields(p) if f.name not in _HIDDEN}}  # type: ignore[arg-type]
        for p in flat_passes(recipe)
    ]


def flat_passes(recipe: Recipe) -> Iterator[Pass]:
    """Every pass of a recipe, in order, those that others own included."""
    yield from _flat(recipe.passes)


def _flat(passes: Sequence[Pass]) -> Iterator[Pass]:
    for p in passes:
        yield p
        yield from _flat(getattr(p, "body", ()))


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        try:
            return Path(name_or_path).read_text(), name_or_path
        except OSError as e:
            raise _no_recipe(Path(name_or_path), e) from e
        except UnicodeDecodeError as e:
            raise UsageError(f"recipe {name_or_path} is no text", "see docs/recipes.md") from e
    names = recipe_names()
    if name_or_path not in names:
        close = difflib.get_close_matches(name_or_path, names, 1)
        raise UsageError(
            f"unknown recipe {name_or_path!r}",
            f"did you mean {close[0]!r}?" if close else f"recipes: {', '.join(names)}",
        )
    return (
        resources.files("golfpack") / "recipes" / f"{name_or_path}.toml"
    ).read_text(), name_or_path


def _no_recipe(path: Path, error: OSError) -> UsageError:
    """The error for a file that cannot be read; whoever typed it may have meant a shipped one."""
    found = unreadable(path, error, "recipe ")
    if path.stem in recipe_names():
        return UsageError(found.message, f"the recipe that comes with golfpack is {path.stem}")
    return UsageError(
        found.message, f"{found.hint}; golfpack list recipes shows those it comes with"
    )


def _with_settings(
    entries: Sequence[dict[str, Any]], settings: Sequence[str]
) -> list[dict[str, Any]]:
    changed = [dict(entry) for entry in entries]
    by_id = {str(entry.get("id")): entry for entry in changed}
    for setting in settings:
        key, eq, text = setting.partition("=")
        pass_id, dot, option = key.partition(".")
        if not eq or not dot or pass_id not in by_id:
            raise UsageError(
                f"--set {setting!r} sets nothing in this recipe",
                f"use PASS.OPTION=VALUE with PASS one of {', '.join(by_id)}",
            )
        by_id[pass_id][option] = parse_value(text)
    return changed


def _make_pass(entry: Mapping[str, Any], origin: str) -> Pass:
    options = dict(entry)
    pass_id = options.pop("id", None)
    if not isinstance(pass_id, str) or pass_id not in PASSES:
        close = difflib.get_close_matches(str(pass_id), PASSES, 1)
        raise UsageError(
            f"recipe {origin}: unknown pass {pass_id!r}",
            f"did you mean {close[0]!r}?" if close else f"passes: {', '.join(PASSES)}",
        )
    what = f"recipe {origin}: pass {pass_id!r}"
    return make(PASSES[pass_id], options, what, hidden=_HIDDEN)


def _nest(passes: tuple[Pass, ...], origin: str) -> tuple[Pass, ...]:
    """Hand everything behind `fit`, and behind `prune_ones`, to it."""
    for i, p in enumerate(passes):
        if isinstance(p, Fit):
            body = passes[i + 1 :]
            if [b.name for b in body if b.name in (*_BODY, Fit.name)] != list(_BODY):
                raise UsageError(
                    f"recipe {origin}: fit needs {', '.join(_BODY)} behind it, in that order, once",
                    "see docs/writing_a_pass.md",
                )
            return (*passes[:i], replace(p, body=_nest(body, origin)))
        if isinstance(p, PruneOnes):
            body = passes[i + 1 :]
            if [b.name for b in body] != [Encode.name]:
                raise UsageError(
                    f"recipe {origin}: prune_ones needs encode, and nothing else, behind it",
                    "see docs/writing_a_pass.md",
                )
            return (*passes[:i], replace(p, body=body))
    return passes
