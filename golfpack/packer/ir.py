"""The compiler's vocabulary: what a model is (to us), and what a quantised tensor is.

Nothing here knows torch or model code. A model family describes itself as a `ModelSpec`; the passes
turn its weights into one `QTensor` or `Raw` per tensor; the artifact stores those.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

# What a tensor does in the network. Policies match roles first, name globs second.
Role = Literal["embed", "head", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "vector"]
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
        n = 1
        for d in self.shape:
            n *= d
        return n


@dataclass(frozen=True)
class ModelSpec:
    """Everything the packer may know about a model.

    `config` is JSON-safe and complete: `FAMILIES[family].build(config)` makes the module whose
    `state_dict()` has exactly the names and shapes in `tensors` (tied weights listed once).
    """

    family: str
    config: dict[str, Any] = field(hash=False)
    tensors: tuple[TensorSpec, ...]

    @property
    def numel(self) -> int:
        return sum(t.numel for t in self.tensors)

    def __getitem__(self, name: str) -> TensorSpec:
        return next(t for t in self.tensors if t.name == name)
