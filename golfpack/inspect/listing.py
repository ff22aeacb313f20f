"""`golfpack list`: everything that options and recipes name, with a line on what it is."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from golfpack.base.documents import SCHEMA_VERSION
from golfpack.errors import UsageError
from golfpack.eval.choose import load_ttt, ttt_names
from golfpack.models import FAMILIES
from golfpack.packer.format.codecs import CODECS
from golfpack.packer.format.codestreams import RansCodes
from golfpack.packer.format.filters import FILTERS
from golfpack.packer.quantize.clip import CLIPS
from golfpack.packer.quantize.schemes import SCHEMES
from golfpack.packer.recipe import PASSES, load_recipe, recipe_names
from golfpack.train.presets import load_preset, preset_names


@dataclass(frozen=True)
class Named:
    """Something that options and recipes name.

    Attributes:
        name: as it is typed.
        about: one sentence on what it is.
    """

    name: str
    about: str


@dataclass(frozen=True)
class ListReport:
    """What `golfpack list KIND` found.

    Attributes:
        kind: "codecs", "recipes", ...; "kinds" where none was asked for.
        used: where such a name goes.
        entries: everything of the kind.
    """

    kind: str
    used: str
    entries: list[Named]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class _Kind:
    """What can be listed.

    Attributes:
        about: what these are.
        used: where such a name goes.
        entries: makes the list.
    """

    about: str
    used: str
    entries: Callable[[], list[Named]]


def list_names(kind: str | None = None) -> ListReport:
    """Everything of a kind that can be named, or the kinds.

    Raises:
        UsageError: no such kind.
    """
    if kind is None:
        kinds = [Named(name, k.about) for name, k in KINDS.items()]
        return ListReport("kinds", "golfpack list KIND", kinds)
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        raise UsageError(
            f"there is no kind {kind!r} to list",
            f"did you mean {near[0]!r}?" if near else f"kinds: {', '.join(KINDS)}",
        )
    return ListReport(kind, KINDS[kind].used, KINDS[kind].entries())


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n", 1)[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph, maxsplit=1)[0]


def _classes(table: Mapping[str, type]) -> list[Named]:
    return [Named(name, first_sentence(c.__doc__ or "")) for name, c in table.items()]


def _codecs() -> list[Named]:
    return [Named("rans", first_sentence(RansCodes.__doc__ or "")), *_classes(CODECS)]


def _recipes() -> list[Named]:
    return [Named(name, load_recipe(name).about) for name in recipe_names()]


def _families() -> list[Named]:
    return [Named(name, family.about) for name, family in FAMILIES.items()]


def _presets() -> list[Named]:
    return [Named(name, load_preset(name).about) for name in preset_names()]


def _ttt() -> list[Named]:
    found = ((name, load_ttt(name)) for name in ttt_names())
    return [Named(name, "" if recipe is None else recipe.about) for name, recipe in found]


KINDS: dict[str, _Kind] = {
    "recipes": _Kind("ways to build", "--recipe NAME", _recipes),
    "families": _Kind("model architectures", "--model NAME", _families),
    "presets": _Kind("ways to train", "golfpack train --preset NAME", _presets),
    "ttt": _Kind("settings of test-time training", "golfpack eval --ttt NAME", _ttt),
    "passes": _Kind(
        "the steps of a recipe", 'a recipe\'s id = "NAME", --set NAME.OPTION=VALUE',
        lambda: _classes(PASSES),
    ),
    "schemes": _Kind(
        "how a tensor is quantized", 'scheme = "NAME" in a rule of the pass policy',
        lambda: _classes(SCHEMES),
    ),
    "clips": _Kind(
        "where codes of a fixed bit width end", 'clip = "NAME" beside a scheme',
        lambda: _classes(CLIPS),
    ),
    "codecs": _Kind("what codes streams", "--set encode.codec=NAME", _codecs),
    "filters": _Kind(
        "what rearranges bytes before a codec", '--set \'encode.filters=["NAME"]\'',
        lambda: _classes(FILTERS),
    ),
}  # fmt: skip
