"""The pass that chooses every tensor's scheme, by rules over roles, names, sizes and ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, cast

import numpy as np

from golfpack.base.convert import make, require
from golfpack.errors import UsageError
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.quantize.clip import make_clip
from golfpack.packer.quantize.gptq import round_nearest
from golfpack.packer.quantize.schemes import SCHEMES, IntN, Keep, RateDistortion, Scheme
from golfpack.packer.quantize.sensitivity import TINY, Sensitivity, combine_uses
from golfpack.packer.rate import entropy
from golfpack.packer.state import PackState, Pass, Stage
from golfpack.spec import ROLES, TensorSpec, as_matrix, check_roles


@dataclass(frozen=True)
class _Selectors:
    """What a policy rule asks of a tensor; a tensor must meet all of it.

    Attributes:
        rank: order what the rest selects by sensitivity, highest first: "trace" of the Hessian (record
            of 2026-03-31), or "error": H-weighted error per byte under the rule's own scheme.
        top: of that order, take so many, or (a number below 1) such a share of them, one at least.
        optional: the rule may decide nothing.
    """

    roles: tuple[str, ...] = ROLES
    name: str = "*"
    max_numel: int | None = None
    rank: Literal["trace", "error"] | None = None
    top: int | float | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_roles(self.roles, "a policy rule")
        together = (self.rank is None) == (self.top is None)
        require(together, "a policy rule has rank without top, or top without rank", "give both")
        if self.top is not None:
            holds = self.top >= 1 if isinstance(self.top, int) else 0 < self.top < 1
            what = f"a policy rule takes the top {self.top}"
            require(holds, what, "give a count such as 3, or a share between 0 and 1 such as 0.25")

    def match(self, t: TensorSpec) -> bool:
        small = self.max_numel is None or t.numel <= self.max_numel
        return small and t.role in self.roles and fnmatchcase(t.name, self.name)

    def count(self, of: int) -> int:
        """How many of `of` candidates `top` is."""
        assert self.top is not None
        return self.top if isinstance(self.top, int) else max(1, round(self.top * of))


# The keys of a rule that say which tensors it takes.
SELECTORS = frozenset(f.name for f in fields(_Selectors))


@dataclass(frozen=True)
class Policy(Pass):
    """Choose every tensor's scheme: the first rule that takes it decides.

    A rule is a table: `roles` (list), `name` (glob), `max_numel`, `rank` and `top` select; `scheme`
    names an entry of SCHEMES and every other key is an option of it. "32 tensors int6, the others
    int5" is { rank = "trace", top = 32, scheme = "int", bits = 6 } and a rule for the rest. A rule that
    decides nothing is an error unless it is `optional`, and so is a tensor that no rule takes.

    Attributes:
        rules: in the order in which they are asked.
        trellis: false takes the states from all codes, whatever the rules say.
    """

    name: ClassVar[str] = "policy"
    stage: ClassVar[Stage] = "prepare"
    rules: tuple[dict[str, Any], ...] = ()
    trellis: bool = True

    def __post_init__(self) -> None:
        for rule in self.rules:
            scheme = _make_scheme(rule)
            if _make_selectors(rule).rank == "error":
                _check_ranked_by_error(scheme)

    def run(self, state: PackState) -> PackState:
        chosen: dict[str, Scheme] = {}
        for rule in self.rules:
            scheme, selectors = _make_scheme(rule), _make_selectors(rule)
            left = [t for t in state.spec.tensors if t.name not in chosen and selectors.match(t)]
            if selectors.rank is not None:
                scores = [_score(state, t, scheme, selectors.rank) for t in left]
                order: list[int] = np.argsort(-np.array(scores), kind="stable").tolist()
                left = [left[i] for i in order[: selectors.count(len(left))]]
            if not left and not selectors.optional:
                raise UsageError(
                    f"policy rule {rule} matches no tensor of this model",
                    "remove it, put it before the rules that match its tensors first, or say "
                    "optional = true",
                )
            chosen |= {t.name: scheme for t in left}
        plan = _complete(chosen, state.spec.tensors)
        return replace(state, plan=plan if self.trellis else without_states(plan))


def without_states(plan: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """The same schemes with codes that stand by themselves."""
    return {
        n: replace(s, trellis=False) if isinstance(s, RateDistortion) else s
        for n, s in plan.items()
    }


def _complete(chosen: dict[str, Scheme], tensors: Sequence[TensorSpec]) -> dict[str, Scheme]:
    """The plan in spec order. Raises UsageError for a tensor without a scheme."""
    for t in tensors:
        if t.name not in chosen:
            raise UsageError(
                f"no policy rule matches tensor {t.name} (role {t.role})",
                "add a rule for its role, or a last rule without selectors",
            )
    return {t.name: chosen[t.name] for t in tensors}


def _score(state: PackState, t: TensorSpec, scheme: Scheme, rank: str) -> float:
    """A tensor's sensitivity, for ranking. Raises UsageError without calibration."""
    if state.stats is None or t.name not in state.stats.uses:
        raise UsageError(
            f"a policy rule ranks tensor {t.name}, of which calibration measured nothing",
            "calibrate (drop --data-free), and rank matrices only",
        )
    hessian, row_weight = combine_uses(state.stats.uses[t.name], as_matrix(t.shape)[0])
    if rank == "trace":
        return float(hessian.trace())
    # Rows that no gradient reached weigh next to nothing; 0 for all of them has no steps.
    row_weight = np.maximum(row_weight, TINY)
    w, sensitivity = state.matrix(t.name), Sensitivity(hessian, row_weight, None, measured=True)
    steps = scheme.steps(w, sensitivity, 1.0, scheme.find_clips(w, sensitivity))
    codes = round_nearest(w, steps, scheme.limit)
    error = sensitivity.kl(QTensor(codes, steps).dequantize() - w)
    return error / max(entropy(codes) * codes.size / 8, 1.0)


def _check_ranked_by_error(scheme: Scheme) -> None:
    """Raise UsageError for a scheme whose error cannot be told before `sense`."""
    if isinstance(scheme, Keep):
        raise UsageError("a policy rule ranks by error what it keeps", 'rank = "trace" goes')
    if isinstance(scheme, IntN) and make_clip(scheme.clip).whole_rows:
        raise UsageError(
            f"a policy rule ranks by error what clip {scheme.clip!r} tries by feedback, which needs "
            "the Hessian's factor",
            'rank = "trace" goes, and so does trial = "nearest" in the clip',
        )


def _make_scheme(rule: Any) -> Scheme:
    if not isinstance(rule, dict):
        raise UsageError(f"policy rule {rule!r} is not a table", 'such as { scheme = "rd" }')
    rule = cast(dict[str, Any], rule)
    options = {k: v for k, v in rule.items() if k not in (*SELECTORS, "scheme")}
    scheme = SCHEMES.get(str(rule.get("scheme")))
    if scheme is None:
        raise UsageError(
            f"policy rule {rule} names no known scheme", f"known schemes: {', '.join(SCHEMES)}"
        )
    return make(scheme, options, f"scheme {scheme.scheme_id!r}")


def _make_selectors(rule: dict[str, Any]) -> _Selectors:
    chosen = {k: v for k, v in rule.items() if k in SELECTORS}
    return make(_Selectors, chosen, f"policy rule {rule}")
