"""What the compiler and the model families share: what a model is, and what calibration measured of it.

Nothing here knows torch or model code. A model family describes itself as a `ModelSpec`; calibration
adds `CalibStats`. Neither side imports the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from golfpack.base.convert import require

# What a tensor does in the network. Policies match roles first, name globs second.
Role = Literal[
    "embed", "head", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "vector"
]


ROLES: tuple[Role, ...] = (
    "embed", "head", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "vector",
)  # fmt: skip


HookKind = Literal["linear", "embedding"]


@dataclass(frozen=True)
class Hook:
    """One use of a weight: where calibration sees the inputs and output gradients it meets.

    `linear`: `module` is called with x (..., in) first and returns y = x W^T (..., out).
    `embedding`: `module` is called with token ids (...) first and returns rows of W (..., dim).
    A tied embedding has one hook of each kind; a block shared by several virtual layers has one hook
    whose module is simply called several times.
    """

    module: str
    kind: HookKind = "linear"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint. `shape` is (out, in) for matrices, as in `nn.Linear.weight`."""

    name: str
    shape: tuple[int, ...]
    role: Role
    block: int | None = None
    hooks: tuple[Hook, ...] = ()

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Fold:
    """A place where scaling columns of one matrix can be undone in rows of another.

    Multiplying column j of `consumer` by s and row `rows[j]` of `producer` by s^(-1 / power) leaves the
    model's function as it is, for any s > 0 that is equal for all columns of one producer row.

    Attributes:
        rows: per column of the consumer, the producer's row that feeds it.
        power: the degree of what lies between: 1 for a linear path, 2 for a squared ReLU.
    """

    consumer: str
    producer: str
    rows: tuple[int, ...]
    power: int = 1


@dataclass(frozen=True)
class ModelSpec:
    """Everything the packer may know about a model.

    `config` is JSON-safe and complete: `FAMILIES[family].build(config)` makes the module whose
    `state_dict()` has exactly the names and shapes in `tensors` (tied weights listed once).

    `unsaid` are options that an artifact leaves out where they have these values: what its readers have
    for options that artifacts older than them lack. They can never change.

    `source` is what an artifact says of how the checkpoint had its tensors; the compiler never reads it.
    """

    family: str
    config: dict[str, Any] = field(hash=False)
    tensors: tuple[TensorSpec, ...]
    folds: tuple[Fold, ...] = ()
    unsaid: Mapping[str, Any] = field(default_factory=dict, hash=False)
    source: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def stored_config(self) -> dict[str, Any]:
        """What an artifact says of `config`."""
        return {k: v for k, v in self.config.items() if k not in self.unsaid or self.unsaid[k] != v}

    @property
    def numel(self) -> int:
        return sum(t.numel for t in self.tensors)

    def __getitem__(self, name: str) -> TensorSpec:
        return next(t for t in self.tensors if t.name == name)


@dataclass(frozen=True, eq=False)
class Use:
    """What one use of a matrix W (rows r, columns i) says about errors e_r in its rows.

    The expected KL increase per token is `1/2 sum_r row_weight[r] e_r hessian e_r^T`.

    Attributes:
        kind: which kind of hook measured it.
        hessian: (cols, cols) float32. linear: mean over tokens of x x^T (summed over virtual layers);
            with gradients each token counts by |dL/dy|, the mean of which is 1.
            embedding: mean over tokens of g g^T, g = dL/d(embedding output).
        row_weight: (rows,) float64. linear: mean over tokens and uses of (dL/dy_r)^2, dL/dlogits being
            `calib.collect.probe`. embedding: frequency of token r.
            None when gradients were not asked for.
        input_abs: (cols,) float64 mean |x|, or None for an embedding.
        output_cov: (rows, rows) float32 mean of g g^T over tokens, g = dL/dy, or None.
        radial: (1,) float64, of an embedding: mean square of g along the row that was looked up, over
            that along any direction; 1 without gradients. Next to 0 where that row is normalised.
    """

    kind: HookKind
    hessian: np.ndarray
    row_weight: np.ndarray | None = None
    input_abs: np.ndarray | None = None
    output_cov: np.ndarray | None = None
    radial: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CalibStats:
    """Calibration result for a whole model.

    Attributes:
        uses: per matrix, one `Use` per hook of its TensorSpec, in that order.
        vector_fisher: per vector tensor, mean per token of (dL/d theta)^2, same shape; {} without
            gradients.
        tokens: number of calibration tokens.
        source: where the tokens came from, for the report.
        tokens_sha256: of the token ids as little-endian uint32.
    """

    uses: dict[str, tuple[Use, ...]]
    vector_fisher: dict[str, np.ndarray]
    tokens: int
    source: str
    tokens_sha256: str


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """The (rows, cols) under which a tensor of any rank is quantised: last axis = columns."""
    cols = shape[-1] if shape else 1
    return prod(shape[:-1]), cols


def check_roles(roles: Sequence[str], what: str) -> None:
    """Raise UsageError unless all of `roles` are tensor roles; `what` names the option."""
    for role in roles:
        require(role in ROLES, f"{what}: unknown role {role!r}", f"roles: {', '.join(ROLES)}")
