"""The document of `golfpack plan`, which `golfpack build --plan` replays."""

from dataclasses import dataclass, field
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class PlanReport:
    """What `golfpack plan` expects, a row per budget; `build --plan` replays it.

    Attributes:
        calibrates: what the recipe asks of calibration: "none", "inputs" or "gradients".
        passes: of the recipe, with every option.
        search: options of its search for a dial.
        budget_bytes: the one budget that was asked about; None for none, or several.
        code_bytes: how much of every budget is for code that ships too.
        calibration: source, number of tokens and sha256 of the tokens; None without.
        kl_ratio: measured over predicted KL at the probe; None without gradients.
        rows: one per budget.
        tensors: every tensor's scheme; none where several budgets were asked about.
        time: how long a build should take.
        seconds: how long the plan took.
    """

    checkpoint: str
    checkpoint_sha256: str
    recipe: str
    settings: list[str]
    calibrates: str
    passes: list[dict[str, Any]]
    search: dict[str, Any]
    parameters: int
    budget_bytes: int | None
    code_bytes: int
    calibration: dict[str, Any] | None
    kl_ratio: float | None
    rows: list["PlanRow"]
    tensors: list["PlanTensor"]
    time: "PlanTime"
    seconds: float
    assumed: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class PlanRow:
    """What to expect of one budget.

    Attributes:
        budget_bytes: None for the recipe as it is written, at dial 1.
        artifact_bytes: expected size of the file.
        bits_per_weight: the same per weight of the model.
        dial: the one number behind all steps.
        predicted_kl: nats per token; None where the recipe measures no gradients.
        predicted_bpb: the same as a loss in bits per byte; None without a tokenizer.
    """

    budget_bytes: int | None
    artifact_bytes: int
    bits_per_weight: float
    dial: float
    predicted_kl: float | None
    predicted_bpb: float | None


@dataclass(frozen=True)
class PlanTensor:
    """One tensor of a plan.

    Attributes:
        name: of the tensor.
        role: what it does in the network.
        shape: its own.
        scheme, options: as a policy rule has them.
        label: short name for tables, such as "int6".
        bytes: expected share of the file; None where several budgets were asked about.
        predicted_kl: expected share of the KL, nats per token; None as above, and without gradients.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    scheme: str
    options: dict[str, Any]
    label: str
    bytes: int | None
    predicted_kl: float | None


@dataclass(frozen=True)
class PlanTime:
    """How long a build should take, from what the plan itself took.

    Attributes:
        ready_seconds: calibration (next to nothing when cached), the recipe's `prepare`, and one KL.
        round_seconds: one round of the search: every tensor quantized and coded once.
        rounds: how many a build typically takes.
        build_seconds: ready_seconds + rounds * round_seconds + behind_seconds.
        behind_seconds: rounding in sequence, behind the search.
    """

    ready_seconds: float
    round_seconds: float
    rounds: int
    build_seconds: float
    behind_seconds: float = 0.0
