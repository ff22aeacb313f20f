"""How large or how good an artifact is to be: bytes, a KL, a loss, or every float exactly."""

from dataclasses import dataclass
from math import isfinite

from golfpack.base.convert import require
from golfpack.base.sizes import parse_size
from golfpack.errors import BudgetError
from golfpack.spec import ModelSpec

# A budget below this many bytes is a slip: no file is that small.
SLIP = 1000


@dataclass(frozen=True)
class Bytes:
    """The best artifact of at most this size, code that ships beside it included.

    Attributes:
        size: "16MB", "16MiB", "3.5bpw" (bits per weight), or bytes as a text or a number.
    """

    size: str | int

    def total(self, numel: int) -> int:
        """Bytes, for a model of `numel` weights. Raises UsageError for what is no size."""
        return parse_size(str(self.size), numel)


@dataclass(frozen=True)
class Kl:
    """The smallest artifact whose KL to the float model is at most this, nats per token."""

    target: float

    def __post_init__(self) -> None:
        _check_target("kl", self.target)


@dataclass(frozen=True)
class Bpb:
    """The same as a loss in bits per byte, which needs a tokenizer."""

    target: float

    def __post_init__(self) -> None:
        _check_target("bpb", self.target)


@dataclass(frozen=True)
class Lossless:
    """Every float exactly as it is."""


Aim = Bytes | Kl | Bpb | Lossless


def _check_target(name: str, target: float) -> None:
    holds = isfinite(target) and target > 0
    require(holds, f"--target-{name} {target} cannot be", "give a positive number")


@dataclass(frozen=True)
class Budget:
    """Bytes that may ship: `total` for artifact and code together, `code` of them for code."""

    total: int
    code: int = 0

    @property
    def artifact(self) -> int:
        """Bytes for the artifact alone."""
        return self.total - self.code


def check_reach(floor_bpw: float, spec: ModelSpec, budget: Budget) -> None:
    """Refuse a budget of fewer bits per weight than a search has on offer, on the shapes alone.

    Before a large model is read: a build that fails takes as long as one that succeeds.

    Raises:
        BudgetError: without a shortfall, which only the weights tell exactly.
    """
    least = least_bytes(floor_bpw, spec)
    if budget.artifact >= least:
        return
    raise BudgetError(
        f"{told_bytes(budget)} leave {told_bits(spec, budget.artifact)}; this recipe needs at least "
        f"{floor_bpw:g}",
        f"raise the budget to {least + budget.code:,} bytes or more, or train a smaller model",
    )


def least_bytes(bpw: float, spec: ModelSpec) -> int:
    """Bytes of so many bits per weight, as a budget in "bpw" of them has: never one more."""
    return int(bpw * spec.numel / 8)


def told_bytes(budget: Budget) -> str:
    """A budget for messages; one of a few bytes was meant in another unit."""
    code = f" (of which {budget.code:,} for code)" if budget.code else ""
    n = budget.total
    unit = f" ({n} is bytes; {n}bpw would be bits per weight, {n}MB megabytes)"
    return f"{n:,} bytes{code}{unit if 0 < n < SLIP else ''}"


def told_bits(spec: ModelSpec, limit: int) -> str:
    """What `limit` bytes leave for each parameter, for messages, and where the parameters are."""
    bits = bits_left(spec, limit)
    return f"{bits:.3f} bits per parameter for {spec.numel:,} parameters ({largest_tensors(spec)})"


def bits_left(spec: ModelSpec, limit: int) -> float:
    """Bits per parameter in `limit` bytes."""
    return max(0.0, 8 * limit / max(spec.numel, 1))


def largest_tensors(spec: ModelSpec) -> str:
    """The three largest, for messages."""
    largest = sorted(spec.tensors, key=lambda t: -t.numel)[:3]
    return "largest tensors: " + ", ".join(f"{t.name} {t.numel:,}" for t in largest)
