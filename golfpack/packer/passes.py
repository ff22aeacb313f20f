"""The passes that turn weights into codes: policy, sense, steps, round. Thin shells, no maths."""

from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np

from golfpack.errors import UsageError
from golfpack.packer.ir import ROLES, PackedTensor, QTensor, Raw, TensorSpec, as_matrix
from golfpack.packer.options import make, require
from golfpack.packer.parallel import map_ordered
from golfpack.packer.quantize.feedback import MAX_DAMP, round_feedback, round_nearest
from golfpack.packer.quantize.schemes import SCHEMES, Keep, Scheme, kept_type
from golfpack.packer.quantize.sensitivity import measure_sensitivity
from golfpack.packer.rawfloat import raw_from_float32
from golfpack.packer.state import PackState, Pass, need, quantised_names


@dataclass(frozen=True)
class _Selectors:
    """What a policy rule asks of a tensor; a tensor must meet all of it."""

    roles: tuple[str, ...] = ROLES
    name: str = "*"
    max_numel: int | None = None

    def __post_init__(self) -> None:
        for role in self.roles:
            require(role in ROLES, f"unknown role {role!r}", f"roles: {', '.join(ROLES)}")

    def match(self, t: TensorSpec) -> bool:
        small = self.max_numel is None or t.numel <= self.max_numel
        return small and t.role in self.roles and fnmatchcase(t.name, self.name)


_SELECTORS = frozenset(f.name for f in fields(_Selectors))


@dataclass(frozen=True)
class Policy(Pass):
    """Choose every tensor's scheme: the first rule that matches it decides.

    A rule is a table: `roles` (list), `name` (glob) and `max_numel` select; `scheme` names an entry
    of SCHEMES and every other key is an option of it. A rule that decides nothing is an error, and so
    is a tensor that no rule matches.
    """

    name: ClassVar[str] = "policy"
    rules: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for rule in self.rules:
            _make_scheme(rule)
            _make_selectors(rule)

    def run(self, state: PackState) -> PackState:
        schemes = [_make_scheme(rule) for rule in self.rules]
        selectors = [_make_selectors(rule) for rule in self.rules]
        used = [0] * len(schemes)
        plan: dict[str, Scheme] = {}
        for t in state.spec.tensors:
            index = next((i for i, s in enumerate(selectors) if s.match(t)), None)
            if index is None:
                raise UsageError(
                    f"no policy rule matches tensor {t.name} (role {t.role})",
                    "add a rule for its role, or a last rule without selectors",
                )
            used[index] += 1
            plan[t.name] = schemes[index]
        for rule, count in zip(self.rules, used, strict=True):
            if not count:
                raise UsageError(
                    f"policy rule {rule} matches no tensor of this model",
                    "remove it, or put it before the rules that match its tensors first",
                )
        return replace(state, plan=plan)


def _make_scheme(rule: dict[str, Any]) -> Scheme:
    if not isinstance(rule, dict):
        raise UsageError(f"policy rule {rule!r} is not a table", 'such as { scheme = "rd" }')
    options = {k: v for k, v in rule.items() if k not in (*_SELECTORS, "scheme")}
    scheme = SCHEMES.get(str(rule.get("scheme")))
    if scheme is None:
        raise UsageError(
            f"policy rule {rule} names no known scheme", f"known schemes: {', '.join(SCHEMES)}"
        )
    return make(scheme, options, f"scheme {scheme.scheme_id!r}")


def _make_selectors(rule: dict[str, Any]) -> _Selectors:
    chosen = {k: v for k, v in rule.items() if k in _SELECTORS}
    return make(_Selectors, chosen, f"policy rule {rule}")


@dataclass(frozen=True)
class Sense(Pass):
    """Boil calibration down to one Sensitivity per tensor, and factor the Hessians.

    Attributes:
        damp: added to every Hessian's diagonal, as a fraction of its mean.
        activation_order: round columns by falling diagonal of the Hessian.
        two_sided: feed errors back along rows too, where calibration measured output gradients.
        row_damp: like `damp`, for the covariance of output gradients.
    """

    name: ClassVar[str] = "sense"
    damp: float = 0.01
    activation_order: bool = False
    two_sided: bool = False
    row_damp: float = 0.1

    def __post_init__(self) -> None:
        for option in ("damp", "row_damp"):
            value = getattr(self, option)
            require(
                0 <= value <= MAX_DAMP, f"sense.{option} is {value}", f"choose 0 to {MAX_DAMP:g}"
            )

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")

    def run(self, state: PackState) -> PackState:
        names = quantised_names(state)
        found = measure_sensitivity(
            {n: state.weights[n] for n in names},
            state.stats,
            damp=self.damp,
            row_damp=self.row_damp if self.two_sided else None,
            activation_order=self.activation_order,
            threads=state.threads,
            notify=state.notify,
        )
        for n, s in found.items():
            if s.factor is not None and s.factor.damp > self.damp:
                state = state.warn(
                    f"{n}: Hessian not positive definite at damp {self.damp:g}; "
                    f"used {s.factor.damp:g}"
                )
        return replace(state, sensitivity=found)


@dataclass(frozen=True)
class Steps(Pass):
    """Every quantised tensor's step field, from its scheme and the dial."""

    name: ClassVar[str] = "steps"

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if quantised_names(state):
            need(state, "sensitivity", self.name, "sense")

    def run(self, state: PackState) -> PackState:
        steps = {
            n: state.plan[n].steps(state.matrix(n), state.sensitivity[n], state.dial)
            for n in quantised_names(state)
        }
        return replace(state, steps=steps)


@dataclass(frozen=True)
class Round(Pass):
    """Weights to codes.

    Attributes:
        feedback: GPTQ's error feedback where there is a Hessian (two-sided where `sense` prepared
            it); otherwise round to nearest.
        rate_weight: prefer cheaper codes by this much (rate-distortion-optimal rounding; the theory's
            slope is ln 2 / 12 = 0.058). 0 rounds to nearest; docs/LOG.md says what it gave.
    """

    name: ClassVar[str] = "round"
    feedback: bool = True
    rate_weight: float = 0.0

    def __post_init__(self) -> None:
        holds = 0 <= self.rate_weight <= 1
        require(holds, f"round.rate_weight is {self.rate_weight}", "choose 0 to 1")

    def requires(self, state: PackState) -> None:
        need(state, "plan", self.name, "policy")
        if quantised_names(state):
            need(state, "steps", self.name, "steps")

    def run(self, state: PackState) -> PackState:
        names = list(state.plan)
        # The largest tensors first, so that threads end together; results return to spec order.
        queue = sorted(
            names, key=lambda n: -state.spec[n].numel * as_matrix(state.spec[n].shape)[1]
        )
        results: dict[str, PackedTensor] = {}
        work = map_ordered(lambda n: self._one(state, n), queue, state.threads)
        for done, (name, tensor) in enumerate(zip(queue, work, strict=True), 1):
            results[name] = tensor
            state.notify("round", done, len(names), name)
        return replace(state, tensors={n: results[n] for n in names})

    def _one(self, state: PackState, name: str) -> PackedTensor:
        scheme = state.plan[name]
        if isinstance(scheme, Keep):
            w = state.weights[name]
            dtype = kept_type(scheme, w)
            return Raw(raw_from_float32(w, dtype), dtype)
        w, steps, known = state.matrix(name), state.steps[name], state.sensitivity[name]
        if self.feedback and known.factor is not None:
            codes = round_feedback(
                w, steps, known.factor, scheme.limit, known.row_factor, self.rate_weight
            )
            return QTensor(codes, steps)
        return QTensor(round_nearest(w, steps, scheme.limit), steps)

    def ensures(self, state: PackState) -> None:
        for name, t in state.tensors.items():
            limit = state.plan[name].limit
            if isinstance(t, QTensor) and limit is not None:
                assert np.abs(t.codes).max(initial=0) <= limit, name
