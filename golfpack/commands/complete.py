"""What the shell completes: names of recipes, families, presets and kinds. Nothing heavy is imported.

Names from tables that need torch are repeated here; tests hold them equal.
"""

import tomllib
from importlib import resources

KINDS = ("recipes", "families", "ttt", "passes", "schemes", "clips", "codecs", "filters")
MODES = ("plain", "sliding")
DEVICES = ("auto", "cpu", "cuda")

# A completion: what is typed, and what the shell shows beside it.
Found = list[tuple[str, str]]


def recipe(incomplete: str) -> Found:
    """Recipes that come with golfpack; a .toml file is left to the shell."""
    return _starting(incomplete, _shipped("recipes"))


def recipes(incomplete: str) -> Found:
    """The last of several recipes with commas."""
    before, comma, last = incomplete.rpartition(",")
    return [(before + comma + name, about) for name, about in recipe(last)]


def ttt(incomplete: str) -> Found:
    """Presets of test-time training."""
    return _starting(incomplete, [("none", "No training."), *_shipped("ttt")])


def family(incomplete: str) -> list[str]:
    """Model families: a folder each, and the one without a network."""
    folders = (resources.files("golfpack") / "models").iterdir()
    names = [f.name for f in folders if (f / "family.py").is_file()]
    return [name for name in sorted([*names, "tensors"]) if name.startswith(incomplete)]


def kind(incomplete: str) -> list[str]:
    """What `golfpack list` lists."""
    return [name for name in KINDS if name.startswith(incomplete)]


def mode(incomplete: str) -> list[str]:
    """How windows are laid."""
    return [name for name in MODES if name.startswith(incomplete)]


def device(incomplete: str) -> list[str]:
    """What torch computes on."""
    return [name for name in DEVICES if name.startswith(incomplete)]


def _shipped(folder: str) -> Found:
    files = (resources.files("golfpack") / folder).iterdir()
    names = sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))
    return [(name, _about(folder, name)) for name in names]


def _about(folder: str, name: str) -> str:
    text = (resources.files("golfpack") / folder / f"{name}.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text).get("about", ""))


def _starting(incomplete: str, known: Found) -> Found:
    return [(name, about) for name, about in known if name.startswith(incomplete)]
