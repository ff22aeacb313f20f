"""What `--kv-cache` says: one format for all tensors of a cache, or one for each.

q8_0                            every tensor; q4_0 of decoupled attention is mixed (`layout.HETERO`)
q8_0/16                         in blocks of 16 values
k_sem=q4_0,k_geo=q8_0/16,v=nf4  one for each tensor, all of them named
"""

from dataclasses import replace

from golfpack.errors import UsageError
from golfpack.kv.layout import (
    DEFAULT_BLOCK,
    DEFAULT_RESIDUAL,
    HETERO,
    PLAIN_BYTES,
    Cached,
    CacheLayout,
)

DEFAULT = "fp32"


def stored_as(layout: CacheLayout, policy: str, residual: int = DEFAULT_RESIDUAL) -> CacheLayout:
    """The tensors of a layout in the formats of a policy.

    Args:
        layout: what the model caches.
        policy: as above.
        residual: newest positions kept in float16 beside the codes, of quantized tensors.

    Raises:
        UsageError: a policy that cannot be read, a tensor that is not there or not named, or a format
            or block that does not fit.
    """
    if residual < 0:
        raise UsageError(f"a residual of {residual} tokens cannot be", "give 0 or more")
    if "=" not in policy:
        kind, block = _format(policy)
        names = {t.name for t in layout.tensors}
        mixed = HETERO if kind == "q4_0" and names == HETERO.keys() else {}
        chosen = {t.name: (mixed.get(t.name, kind), block) for t in layout.tensors}
    else:
        chosen = _by_name(layout, policy)
    return replace(
        layout, tensors=tuple(_fitted(t, *chosen[t.name], residual) for t in layout.tensors)
    )


def told(layout: CacheLayout) -> str:
    """The policy behind a layout, as `stored_as` reads it; the residual is not part of it."""
    return ",".join(
        f"{t.name}={t.format}" + ("" if t.format in PLAIN_BYTES else f"/{t.fitted_block}")
        for t in layout.tensors
    )


def residual_of(layout: CacheLayout) -> int:
    """Newest positions kept in float16; 0 where nothing is quantized."""
    return max((t.residual for t in layout.tensors if t.format not in PLAIN_BYTES), default=0)


def _by_name(layout: CacheLayout, policy: str) -> dict[str, tuple[str, int]]:
    chosen: dict[str, tuple[str, int]] = {}
    for part in policy.split(","):
        name, equals, form = part.strip().partition("=")
        if not equals or name in chosen:
            raise UsageError(f"--kv-cache {policy!r}: {part!r} is not NAME=KIND, once each", _HINT)
        chosen[name] = _format(form)
    names = [t.name for t in layout.tensors]
    if sorted(chosen) != sorted(names):
        raise UsageError(
            f"--kv-cache names {', '.join(chosen)}; this model caches {', '.join(names)}",
            "name each of them once, or give one kind for all",
        )
    return chosen


_HINT = "give a kind such as q8_0 or q4_0/16, or NAME=KIND for each tensor, with commas between"


def _format(text: str) -> tuple[str, int]:
    kind, slash, block = text.strip().partition("/")
    if not slash:
        return kind, DEFAULT_BLOCK
    if not block.isascii() or not block.isdigit() or int(block) < 1 or kind in PLAIN_BYTES:
        raise UsageError(f"--kv-cache {text!r}: no block of that size", _HINT)
    return kind, int(block)


def _fitted(t: Cached, kind: str, block: int, residual: int) -> Cached:
    return replace(t, format=kind, block=block, residual=residual)
