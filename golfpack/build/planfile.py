"""Plan files: what `golfpack plan --output` writes, a person may edit, and `golfpack build` replays."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json, require
from golfpack.base.documents import read_json
from golfpack.errors import UsageError
from golfpack.packer.passes.mix import Mix
from golfpack.packer.passes.policy import SELECTORS, Policy
from golfpack.packer.recipe import Recipe, make_recipe
from golfpack.spec import ModelSpec

# Passes that choose schemes, which a plan file has chosen.
CHOOSERS = frozenset({Policy.name, Mix.name})
_HINT = "write it with `golfpack plan --output`; docs/recipes.md says what may be edited"


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor's scheme, as SCHEMES names it, with its options."""

    name: str
    shape: tuple[int, ...]
    scheme: str
    options: dict[str, Any]

    @property
    def rule(self) -> dict[str, Any]:
        """The policy rule that takes this tensor and no other."""
        return {"name": glob.escape(self.name), "scheme": self.scheme, **self.options}


@dataclass(frozen=True)
class _Pass:
    """What a plan file must say of each pass; the recipe checks the rest."""

    id: str


@dataclass(frozen=True)
class _Written:
    """A plan file as it was written; see `PlanFile`."""

    recipe: str
    calibrates: str
    passes: tuple[dict[str, Any], ...]
    search: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    budget_bytes: int | None
    code_bytes: int
    calibration: dict[str, Any] | None


@dataclass(frozen=True)
class PlanFile:
    """A resolved plan.

    Attributes:
        passes: tables as in a recipe file.
        search: options of the recipe's search for a dial.
        budget_bytes: None where the plan was made without a budget.
        code_bytes: how much of the budget is for code that ships too.
        calibration_sha256: of the tokens it was made with; None without calibration.
    """

    path: Path
    recipe: str
    calibrates: str
    passes: tuple[dict[str, Any], ...]
    search: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    budget_bytes: int | None
    code_bytes: int
    calibration_sha256: str | None

    def make_recipe(self, settings: Sequence[str] = ()) -> Recipe:
        """The recipe that replays the plan: its passes, with the schemes in place of their choosers.

        Every pass then sees the schemes that were chosen last: only a recipe with `awq` before `mix`
        is not replayed to the bit, as there `awq` had seen the schemes before `mix`.

        Raises:
            UsageError: a scheme, a pass or an option that cannot be, or a setting of none of them.
        """
        rules = []
        for tensor in self.tensors:
            try:
                Policy((tensor.rule,))
            except UsageError as e:
                message = f"plan {self.path}: tensor {tensor.name}: {e.message}"
                hint = f"{e.hint}; options belong to a scheme, so whoever changes one replaces both"
                raise UsageError(message, hint) from e
            rules.append(tensor.rule)
        fixed = {"id": Policy.name, "rules": rules}
        others = [p for p in self.passes if p["id"] not in CHOOSERS]
        table = {
            "name": self.recipe,
            "calibration": self.calibrates,
            "search": self.search,
            "pass": [fixed, *others],
        }
        return make_recipe(table, str(self.path), settings)

    def check(self, spec: ModelSpec) -> None:
        """Raise UsageError at the first tensor that is not the same in the plan and in the model."""
        planned = {t.name: t.shape for t in self.tensors}
        actual = {t.name: t.shape for t in spec.tensors}
        for name in {**actual, **planned}:
            if planned.get(name) != actual.get(name):
                raise UsageError(
                    f"plan {self.path} is not for this checkpoint: tensor {name!r} is "
                    f"{planned.get(name, 'absent')} in it, {actual.get(name, 'absent')} in the "
                    "checkpoint",
                    "give the checkpoint it was made for, or plan this one",
                )


def read_plan(path: Path) -> PlanFile:
    """Read a plan file.

    Raises:
        UsageError: unreadable, not JSON, or something in it is missing or of the wrong type.
    """
    where = f"plan {path}"
    written = from_json(_Written, read_json(path, _HINT), where, _HINT)
    names = [t.name for t in written.tensors]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(f"{where} names tensor {twice} twice", "remove one of them")
    for entry in written.passes:
        from_json(_Pass, entry, f"{where}: a pass", _HINT)
    for tensor in written.tensors:
        for key in tensor.options:
            selects = key in SELECTORS or key == "scheme"
            what = f"{where}: tensor {tensor.name}: {key!r} is no option of a scheme"
            require(not selects, what, f"remove {key!r}")
    budget, code, calibration = written.budget_bytes, written.code_bytes, written.calibration
    require(budget is None or budget > 0, f"{where}: budget_bytes is {budget}", "give 1 or more")
    require(code >= 0, f"{where}: code_bytes is {code}", "give 0 or more")
    return PlanFile(
        path=path,
        recipe=written.recipe,
        calibrates=written.calibrates,
        passes=written.passes,
        search=written.search,
        tensors=written.tensors,
        budget_bytes=budget,
        code_bytes=code,
        calibration_sha256=None if calibration is None else calibration.get("sha256"),
    )
