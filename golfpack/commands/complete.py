"""What the shell completes: names of recipes, families, kinds. Nothing heavy is imported.

Names from tables that need torch are repeated here; tests hold them equal.
"""

from typing import Any

TRAINED_FAMILIES = ("golf", "bottleneck", "alph", "llama", "gpt2")
TOKENIZER_KINDS = ("sentencepiece", "alph")
KINDS = ("recipes", "families", "presets", "ttt", "passes", "schemes", "clips", "codecs", "filters")
MODES = ("plain", "sliding", "stream")
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
    """Settings of test-time training."""
    return _starting(incomplete, [("none", "No training."), *_shipped("ttt")])


def family(incomplete: str) -> list[str]:
    """Model families."""
    from importlib import resources

    folders = (resources.files("golfpack") / "models").iterdir()
    names = [f.name for f in folders if (f / "family.py").is_file()]
    return [name for name in sorted([*names, "tensors"]) if name.startswith(incomplete)]


def trained_family(incomplete: str) -> list[str]:
    """Model families that `golfpack train` trains."""
    return [name for name in TRAINED_FAMILIES if name.startswith(incomplete)]


def preset(incomplete: str) -> Found:
    """Presets of training; a .toml file is left to the shell."""
    return _starting(incomplete, _presets())


def tokenizer_kind(incomplete: str) -> list[str]:
    """Kinds of tokenizer that `golfpack train` trains."""
    return [name for name in TOKENIZER_KINDS if name.startswith(incomplete)]


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
    from importlib import resources  # here: --help does without

    files = (resources.files("golfpack") / folder).iterdir()
    found = [f for f in files if f.name.endswith(".toml")]
    return sorted((f.name.removesuffix(".toml"), _about(f)) for f in found)


def _presets() -> Found:
    """A file with variants is one preset for each."""
    import tomllib
    from importlib import resources

    found: Found = []
    for file in (resources.files("golfpack") / "presets").iterdir():
        if file.name.endswith(".toml"):
            table = tomllib.loads(file.read_text(encoding="utf-8"))
            stem = file.name.removesuffix(".toml")
            variants = table.get("variants", {})
            found += [(f"{stem}-{name}", v["about"]) for name, v in variants.items()]
            found += [] if variants else [(stem, table["about"])]
    return sorted(found)


def _about(file: Any) -> str:
    import tomllib

    return str(tomllib.loads(file.read_text(encoding="utf-8")).get("about", ""))


def _starting(incomplete: str, known: Found) -> Found:
    return [(name, about) for name, about in known if name.startswith(incomplete)]
