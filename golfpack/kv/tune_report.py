"""The document of `golfpack tune-cache`."""

from dataclasses import dataclass, field

from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.kv.quality import Quality


@dataclass(frozen=True)
class TriedPolicy:
    """A policy that was timed.

    Attributes:
        policy: as `--kv-cache` takes it.
        residual: newest tokens kept in float16.
        bytes: of one sequence of `context` tokens.
        seconds: for one token behind them.
        taken: whether the climb went there.
    """

    policy: str
    residual: int
    bytes: int
    seconds: float
    taken: bool


@dataclass(frozen=True)
class TriedPlan:
    """A way to read codes.

    Attributes:
        plan: its name.
        seconds: for one token.
    """

    plan: str
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A policy held to the limits of quality, against an fp16 cache.

    Attributes:
        policy: as `--kv-cache` takes it.
        residual: newest tokens kept in float16.
        quality: what it costs.
        refused: the limit that it breaks, in words; None where it keeps all.
    """

    policy: str
    residual: int
    quality: Quality
    refused: str | None


@dataclass(frozen=True)
class TuneReport:
    """What `golfpack tune-cache` found.

    Attributes:
        model: path of the checkpoint or artifact.
        model_sha256: of its bytes.
        context: tokens in the cache when a token is timed.
        budget_bytes: what the cache may take.
        policy, residual: the answer, for `--kv-cache` and `--kv-residual`; `--kv-cache tuned` takes it.
        bytes: of one sequence of `context` tokens under it.
        fp16_bytes: the same under fp16.
        seconds: for one token under it, by its plan.
        quality: what it costs against fp16; None where an earlier run's answer stands.
        plan: how its codes are read.
        policies, judged, plans: everything that was tried.
        cached: whether the answer is that of an earlier run.
        results: the file that keeps it.
        device: "cpu" or "cuda".
        warnings: what went wrong on the way.
    """

    model: str
    model_sha256: str
    context: int
    budget_bytes: int
    policy: str
    residual: int
    bytes: int
    fp16_bytes: int
    seconds: float
    quality: Quality | None
    plan: str
    policies: list[TriedPolicy]
    judged: list[Judged]
    plans: list[TriedPlan]
    cached: bool
    results: str
    device: str
    threads: int
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
