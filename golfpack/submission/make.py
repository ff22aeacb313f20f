"""The script of one artifact: `script.py` with what it needs, less what this model does without."""

import warnings
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from golfpack.errors import UsageError
from golfpack.eval.choose import KINDS, TttRecipe, choose_mode
from golfpack.export.bundle import bundle
from golfpack.export.decoder import Uses, decoding, usual
from golfpack.export.minify import minify, pack
from golfpack.export.quiet import quiet
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.family import GOLF
from golfpack.models.model import Model
from golfpack.packer.format.container import VERSION
from golfpack.submission import script
from golfpack.submission.known import known_values

# What decoding takes of an artifact that the default recipe wrote.
USUAL = Uses(VERSION, frozenset({"lzma"}), frozenset(), frozenset({"rans"}), frozenset({"logs"}))


@dataclass(frozen=True)
class Training:
    """Test-time training as a script has it.

    Attributes:
        name: as it was asked for; "none" for none.
        kind: "sgd", "lora", "phased", or "".
        options: those that differ from their kind's defaults.
    """

    name: str = "none"
    kind: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, recipe: TttRecipe | None, model: Model) -> "Training":
        """What a recipe asks of a model, checked and complete.

        Raises:
            UsageError: the model is not of the golf family, or as `choose_mode`.
        """
        if model.family.name != GOLF.name:
            raise UsageError(
                f"a submission's script has a network of family {GOLF.name}; this is of family "
                f"{model.family.name}",
                "golfpack export X.golf --out DIR writes a decoder for any family",
            )
        if recipe is None:
            return cls()
        windows = "sliding" if recipe.kind == "sgd" else "plain"
        length = model.config["seq_len"]
        mode: Any = choose_mode(windows, None, None, recipe, length, None)
        asked, usual = asdict(mode.ttt), {f.name: f.default for f in fields(mode.ttt)}
        changed = tuple((k, v) for k, v in asked.items() if v != usual[k])
        return cls(recipe.name, recipe.kind, changed)

    def all_options(self) -> dict[str, Any]:
        """Every option, defaults as well; {} without training."""
        return asdict(KINDS[self.kind](**dict(self.options))) if self.kind else {}


def make_script(needs: Uses, model: Model, training: Training) -> bytes:
    """The script that scores an artifact, as it counts: minified, and packed into three lines.

    The same input gives the same bytes.

    Args:
        needs: what decoding the artifact takes.
        model: of the golf family; its config matters, its weights do not.
        training: at test time.
    """
    return _packed(quiet(readable_script(needs, model, training)))


@cache
def _packed(source: str) -> bytes:
    """A build asks for its script before and behind, and once more for the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of names that minify only looks at
        return pack(minify(source))


def readable_script(needs: Uses, model: Model, training: Training) -> str:
    """The same with all its names and words."""
    cfg = GolfConfig(**model.config)
    values = known_values(cfg, training.kind, dict(training.options))
    known = decoding(needs)
    known = usual(needs, replace(known, values={**known.values, **values}))
    text = bundle({"main": f"{script.__name__}:main"}, known=known, annotations=False)
    return f"{text}\n\nmain()\n"
