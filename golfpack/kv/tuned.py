"""What `tune-cache` found, kept as JSON beside other caches, and read by `--kv-cache tuned`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json
from golfpack.base.files import write_atomically
from golfpack.calib.cache import cache_folder
from golfpack.errors import UsageError
from golfpack.kv.layout import CacheLayout
from golfpack.kv.plans import READERS, Plan
from golfpack.kv.policy import residual_of, stored_as, told
from golfpack.models.model import Model

TUNED = "tuned"
VERSION = 1


@dataclass(frozen=True)
class FoundPolicy:
    """A cache's formats, and for which length they were chosen."""

    policy: str
    residual: int
    context: int
    seconds: float
    kl: float


@dataclass(frozen=True)
class FoundPlan:
    """How codes are read fastest, in seconds a token."""

    reader: str
    positions: int
    seconds: float

    def __post_init__(self) -> None:
        if self.reader not in READERS or self.positions < 0:
            raise UsageError(f"there is no decode plan {self.reader}/{self.positions}")

    @property
    def plan(self) -> Plan:
        return Plan(self.reader, self.positions)


@dataclass(frozen=True)
class Results:
    """All results on this machine, by what they depend on.

    Attributes:
        decode_plans: by `plan_key`.
        cache_policies: by `policy_key`.
    """

    decode_plans: dict[str, FoundPlan] = field(default_factory=dict)
    cache_policies: dict[str, FoundPolicy] = field(default_factory=dict)
    version: int = VERSION

    def with_policy(self, key: str, found: FoundPolicy) -> "Results":
        """These and one more, the newest last."""
        kept = {k: v for k, v in self.cache_policies.items() if k != key}
        return Results(self.decode_plans, {**kept, key: found})

    def with_plan(self, key: str, found: FoundPlan) -> "Results":
        """These and one more."""
        return Results({**self.decode_plans, key: found}, self.cache_policies)


def results_file() -> Path:
    """Where results are kept."""
    return cache_folder() / "kv_tuning.json"


def read_results(path: Path) -> tuple[Results, str | None]:
    """What a file holds, and a warning where it is damaged: it is then as if it were empty."""
    if not path.is_file():
        return Results(), None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = from_json(Results, data, str(path), "delete it")
    except (OSError, ValueError, RecursionError, UsageError) as error:
        return Results(), f"{path} cannot be read ({error}): it is left aside, and written anew"
    if found.version != VERSION:
        return Results(), f"{path} is of version {found.version}: it is left aside"
    return found, None


def write_results(path: Path, results: Results) -> None:
    """Write all results, whole or not at all. Raises UsageError where the folder takes none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make {path.parent}: {error.strerror}", "set GOLFPACK_CACHE"
        ) from error
    table = {
        "version": results.version,
        "decode_plans": {k: vars(v) for k, v in results.decode_plans.items()},
        "cache_policies": {k: vars(v) for k, v in results.cache_policies.items()},
    }
    write_atomically(path, (json.dumps(table, indent=1) + "\n").encode())


def bucket(positions: int) -> int:
    """Lengths are told apart by powers of two: the next one from here."""
    return 1 << max(0, positions - 1).bit_length()


def policy_key(model: Model, device: str, context: int, asked: Mapping[str, Any]) -> str:
    """What a policy depends on: model, device, length, and what was asked for."""
    options = ",".join(f"{k}={v}" for k, v in asked.items())
    return f"{_of_model(model, device)}{bucket(context)}|{options}"


def plan_key(device: str, context: int, layout: CacheLayout) -> str:
    """What a decode plan depends on: device, length, widths and formats."""
    widths = ",".join(str(t.dim) for t in layout.tensors)
    return f"{device}|{bucket(context)}|{widths}|{told(layout)},residual={residual_of(layout)}"


def tuned_cache(
    model: Model, plain: CacheLayout, device: str, positions: int
) -> tuple[CacheLayout, Plan]:
    """The policy that was found for a model, of the nearest length, the newest of several; its plan.

    Raises:
        UsageError: none was found yet.
    """
    results, warning = read_results(results_file())
    start = _of_model(model, device)
    found = [p for key, p in results.cache_policies.items() if key.startswith(start)]
    if not found:
        raise UsageError(
            f"no cache was tuned for this model on this device{f': {warning}' if warning else ''}",
            f"run golfpack tune-cache {model.path}",
        )
    wanted = bucket(positions).bit_length()
    best = min(reversed(found), key=lambda p: abs(bucket(p.context).bit_length() - wanted))
    layout = stored_as(plain, best.policy, best.residual)
    plan = results.decode_plans.get(plan_key(device, best.context, layout))
    return layout, Plan() if plan is None else plan.plan


def _of_model(model: Model, device: str) -> str:
    # With --set the same file is another model.
    config = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode()).hexdigest()
    return f"{model.sha256[:32]}|{config[:16]}|{device}|"
