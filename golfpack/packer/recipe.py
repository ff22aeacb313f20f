"""Recipes: TOML files that list passes and their options. `recipes/` holds those we ship."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args

from golfpack.base.convert import make, parse_value, unknown_option
from golfpack.errors import UsageError, unreadable
from golfpack.packer.passes.awq import Awq
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.lowrank import Correct
from golfpack.packer.passes.mix import Mix
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.prune import PruneMagnitude, PruneOnes
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.search import Search
from golfpack.packer.state import Pass, Stage

PASSES: dict[str, type[Pass]] = {
    p.name: p
    for p in (
        Policy, PruneMagnitude, Awq, Sense, Mix, Clip, Steps, Round, Correct, Encode, PruneOnes,
    )
}  # fmt: skip
CALIBRATIONS = ("none", "inputs", "gradients")
STAGES: tuple[Stage, ...] = get_args(Stage)
# What every recipe has, in this order.
_NEEDED = (Steps.name, Round.name, Encode.name)
# What goes with `search.in_sequence`: others change weights before they are rounded, or codes after it.
_IN_SEQUENCE = ("policy", "sense", "mix", "clip", *_NEEDED)
# How a recipe's budget search is named where its passes are.
_SEARCH = "search"
# The keys of a recipe's table.
_KEYS = ("name", "about", "calibration", "pass", _SEARCH)


@dataclass(frozen=True)
class Recipe:
    """Three lists of passes, the search that drives the last two, and what they need.

    Attributes:
        name: as `--recipe` takes it.
        about: one line.
        calibration: what it needs: "none", "inputs" (Hessians) or "gradients" (Fisher weights as
            well, which takes a backward pass).
        prepare: run once: schemes, statistics, clips.
        quantize: run for every dial: steps and codes.
        write: run for every dial, behind them: the artifact's bytes.
        search: how the dial is found.
    """

    name: str
    about: str
    calibration: str
    prepare: tuple[Pass, ...]
    quantize: tuple[Pass, ...]
    write: tuple[Pass, ...]
    search: Search = field(default_factory=Search)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All passes, in order."""
        return (*self.prepare, *self.round)

    @property
    def round(self) -> tuple[Pass, ...]:
        """What the search runs for every dial."""
        return (*self.quantize, *self.write)

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
    for key in table:
        if key not in _KEYS:
            raise unknown_option(key, _KEYS, f"recipe {origin}")
    entries: Any = table.get("pass")
    if not (
        entries
        and isinstance(entries, list)
        and all(isinstance(e, dict) for e in cast(list[Any], entries))
    ):
        raise UsageError(f"recipe {origin} lists no passes", "add [[pass]] tables with an id")
    calibration = table.get("calibration", "inputs")
    if calibration not in CALIBRATIONS:
        raise UsageError(
            f"recipe {origin}: calibration cannot be {calibration!r}",
            f"it is one of {', '.join(CALIBRATIONS)}",
        )
    search: Any = table.get(_SEARCH, {})
    if not isinstance(search, dict):
        raise UsageError(f"recipe {origin}: search is no table", "such as [search] max_rounds = 20")
    listed: list[dict[str, Any]] = [*entries, {"id": _SEARCH, **cast(dict[str, Any], search)}]
    *entries, search = _with_settings(listed, settings)
    by_stage = _staged([_make_pass(entry, origin) for entry in entries], origin)
    del search["id"]
    recipe = Recipe(
        name=str(table["name"]),
        about=str(table.get("about", "")),
        calibration=calibration,
        search=make(Search, search, f"recipe {origin}: search"),
        **by_stage,
    )
    for p in recipe.passes:
        if recipe.search.in_sequence and p.name not in _IN_SEQUENCE:
            raise UsageError(
                f"recipe {origin}: search.in_sequence does not go with the pass {p.name!r}",
                "leave out one of them, or add --set search.in_sequence=false",
            )
    return recipe


def pass_tables(recipe: Recipe) -> list[dict[str, Any]]:
    """The passes as a recipe file lists them, with every option: `make_recipe` reads them again."""
    return [
        {"id": p.name, **{f.name: getattr(p, f.name) for f in fields(p)}}  # type: ignore[arg-type]
        for p in recipe.passes
    ]


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
    if pass_id == "fit":
        raise UsageError(
            f"recipe {origin}: the budget search is no pass any more",
            "remove the pass 'fit', and put its options into a table [search]",
        )
    if not isinstance(pass_id, str) or pass_id not in PASSES:
        close = difflib.get_close_matches(str(pass_id), PASSES, 1)
        raise UsageError(
            f"recipe {origin}: unknown pass {pass_id!r}",
            f"did you mean {close[0]!r}?" if close else f"passes: {', '.join(PASSES)}",
        )
    what = f"recipe {origin}: pass {pass_id!r}"
    return make(PASSES[pass_id], options, what)


def _staged(passes: Sequence[Pass], origin: str) -> dict[Stage, tuple[Pass, ...]]:
    """The passes by stage. Raises UsageError where they stand in no usable order."""
    order = [STAGES.index(p.stage) for p in passes]
    for earlier, later, p in zip(order, order[1:], passes[1:], strict=False):
        if later < earlier:
            raise UsageError(
                f"recipe {origin}: pass {p.name!r} is one to {p.stage}, and stands behind one to "
                f"{STAGES[earlier]}",
                f"passes stand in the order {', '.join(STAGES)}; see docs/writing_a_pass.md",
            )
    if [p.name for p in passes if p.name in _NEEDED] != list(_NEEDED):
        raise UsageError(
            f"recipe {origin}: it needs the passes {', '.join(_NEEDED)}, in that order, once",
            "see docs/writing_a_pass.md",
        )
    return {stage: tuple(p for p in passes if p.stage == stage) for stage in STAGES}
