"""The shape of a decoupled-bottleneck model; see `bottleneck_net.py` for what is computed with it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from golfpack.errors import UsageError

ACTIVATIONS = ("swiglu", "gelu")
SCORE_SCALES = ("sdpa", "sum")


@dataclass(frozen=True)
class BottleneckConfig:
    """Shape of a decoupled-bottleneck model. Widths are totals over all heads.

    Attributes:
        embed_dim: width of the embedding; below `dim`, two more matrices lead in and out of it.
        attn_dim: width of the values, and of the queries unless decoupled.
        num_kv_heads: heads of keys and values; fewer than `num_heads` is grouped-query attention.
        sem_dim, geo_dim: widths of the two query-key parts of decoupled attention; 0 in any other.
        tie_qk: whether keys are made by the queries' matrices.
        null_attn: whether every query may also attend to one learned key and value.
        learned_temp: whether each head's scores are multiplied by exp(logit_scale).
        activation: swiglu, w3(silu(w1 x) * w2 x), or gelu, w2(gelu(w1 x)) with the exact gelu.
        score_scale: sdpa or sum; see `bottleneck_net.py`.
        seq_len: context length the model was trained at; scoring uses it as the default window.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    mlp_hidden: int
    embed_dim: int
    attn_dim: int
    sem_dim: int = 0
    geo_dim: int = 0
    tie_qk: bool = False
    null_attn: bool = False
    learned_temp: bool = True
    activation: str = "swiglu"
    rope: bool = True
    rope_base: float = 10000.0
    score_scale: str = "sdpa"
    seq_len: int = 1024

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("sem_dim", "geo_dim") else 1
            if f.type is int and value < least:
                raise UsageError(f"model option {f.name} must be at least {least}, not {value}")
        if not self.rope_base > 0:
            raise UsageError(f"model option rope_base must be positive, not {self.rope_base}")
        _one_of("activation", self.activation, ACTIVATIONS)
        _one_of("score_scale", self.score_scale, SCORE_SCALES)
        self._check_parts()
        self._check_heads()

    def _check_parts(self) -> None:
        if (self.sem_dim > 0) != (self.geo_dim > 0):
            raise UsageError(
                f"sem_dim {self.sem_dim} and geo_dim {self.geo_dim} do not fit each other",
                "decoupled attention has both, any other has neither (0)",
            )
        if self.num_kv_heads != self.num_heads and (self.sem_dim or self.tie_qk):
            raise UsageError(
                f"{self.num_kv_heads} KV heads for {self.num_heads} heads fit neither decoupled "
                "attention nor tie_qk",
                "only plain queries and keys of their own can be grouped",
            )

    def _check_heads(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads do not share {self.num_kv_heads} KV heads evenly"
            )
        for part in (*self.parts, QKPart("attn_dim", self.attn_dim, False)):
            unit = self.num_heads * (2 if part.rotary else 1)
            if part.width % unit:
                raise UsageError(
                    f"a width of {part.width} ({part.name}) does not split into "
                    f"{self.num_heads} heads{' of even width' if part.rotary else ''}",
                    "rotary positions need an even width for each head" if part.rotary else None,
                )

    @property
    def mode(self) -> str:
        """The form of attention, as its source calls it."""
        if self.sem_dim:
            return "decoupled"
        if self.num_kv_heads < self.num_heads:
            return "gqa"
        return "standard" if self.attn_dim == self.dim else "bottleneck"

    @property
    def parts(self) -> tuple["QKPart", ...]:
        """The parts whose scores add up."""
        if self.sem_dim:
            return QKPart("sem", self.sem_dim, False), QKPart("geo", self.geo_dim, self.rope)
        return (QKPart("proj", self.attn_dim, self.rope),)

    @property
    def key_parts(self) -> tuple[tuple[str, int], ...]:
        """What decoupled keys are made of in every head, for caches: name and width; () in any other."""
        if not self.sem_dim:
            return ()
        return tuple((f"k_{part.name}", part.width // self.num_heads) for part in self.parts)

    @property
    def score_factor(self) -> float:
        """What scores are multiplied by on top of each part's 1 / sqrt(head width)."""
        if self.mode != "decoupled" or self.null_attn or self.score_scale == "sum":
            return 1.0
        return 1.0 / sqrt((self.sem_dim + self.geo_dim) // self.num_heads)


class QKPart(NamedTuple):
    """A part of the queries and keys: made by `q_NAME` and `k_NAME`."""

    name: str
    width: int  # of the queries, over all heads
    rotary: bool


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}", f"choose from {', '.join(choices)}")
