"""What else a golf checkpoint could be: values of the options that its names and shapes leave open.

The values are those that the challenge's records and experiments use (openai/parameter-golf).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from golfpack.models.golf.config import CHOICES, GolfConfig

_SLOPES = (0.1, 0.25, 0.3, 0.5, 0.75, 0.9)
_SOFTCAPS = (10.0, 15.0, 20.0, 30.0, 50.0)
_ROPE_BASES = (1000.0, 10000.0, 50000.0, 100000.0, 500000.0)
_ROPE_DIMS = (0, 8, 16, 24, 32)
_BOTH = (False, True)
_GATE_SCALES = (0.5, 1.0, 2.0)
# Loops are of at most so many blocks, each run at most so often.
_LONGEST_LOOP, _MOST_RUNS = 6, 4


def siblings(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Option -> the values under which a checkpoint has the same tensors; see `Family.siblings`."""
    c = GolfConfig(**config)
    values: dict[str, tuple[Any, ...]] = {
        "softcap": _SOFTCAPS,
        "softcap_kind": CHOICES["softcap_kind"],
        "rope_base": _ROPE_BASES,
        "rope_base_odd": (0.0, *_ROPE_BASES),
        "rope_dims": tuple(d for d in _ROPE_DIMS if d < c.head_dim),
        "xsa_last_n": tuple(range(c.num_layers + 1)),
        "ln_scale": _BOTH,
        "resid_norm": _BOTH,
        "layer_order": tuple(_orders(c.num_layers, c.virtual_layers // 2, c.passes, c.loop_embeds)),
        "parallel_start": tuple(range(-1 if c.lanes == 1 else 0, c.num_layers)),
    }
    return values | _of_layers(c) | _of_embedding(c)


def _of_layers(c: GolfConfig) -> dict[str, tuple[Any, ...]]:
    """Of what only some models have in their layers."""
    values: dict[str, tuple[Any, ...]] = {}
    if c.activation != "swiglu":
        values["activation"] = ("relu2", "leaky_relu2")
    if c.activation == "leaky_relu2":
        values["leaky_slopes"] = (c.leaky_slopes,)
        if not c.leaky_slopes:
            values["leaky_slope"] = _SLOPES
    if c.lanes == 2:
        values |= {n: CHOICES[n] for n in ("lane_split", "lane_mixes", "lane_decay", "final_lane")}
    if c.value_embed_dim:
        values["value_embed_layers"] = tuple(_value_layers(c))
    if c.attn_gate == "plain":
        values["attn_gate_scale"] = _GATE_SCALES
    if c.attn_gate in ("plain", "double"):
        values["attn_gate_source"] = CHOICES["attn_gate_source"]
    return values


def _of_embedding(c: GolfConfig) -> dict[str, tuple[Any, ...]]:
    """Of what only some models have in their embedding."""
    values: dict[str, tuple[Any, ...]] = {}
    if c.bigram_size and c.bigram_hash != "engram":
        values["bigram_hash"] = ("xor", "linear")
    if c.bigram_size and c.bigram_hash == "xor":
        values["bigram_trigram"] = _BOTH
    if c.word_starts:
        values["bigram_split"] = _BOTH
    if (c.bigram_size and c.bigram_hash != "engram") or c.smear != "none":
        values["bos_resets"] = _BOTH
    return values


def _orders(layers: int, skips: int, passes: int, loop_embeds: int) -> Iterator[str]:
    """Orders with so many skips: the plain one, and those with one loop of neighbouring blocks."""
    if passes > 1:
        yield ""
        return
    if layers // 2 == skips:
        yield ""
    for length in range(1, min(_LONGEST_LOOP, layers) + 1):
        for runs in range(2, _MOST_RUNS + 1):
            if (layers + length * (runs - 1)) // 2 != skips or loop_embeds not in (0, runs):
                continue
            for start in range(layers - length + 1):
                end = start + length - 1
                spans = [(0, end), *[(start, end)] * (runs - 2), (start, layers - 1)]
                yield ",".join(f"{a}-{b}" if a < b else str(a) for a, b in spans)


def _value_layers(c: GolfConfig) -> Iterator[str]:
    """As many neighbouring blocks as there are scales."""
    count = len(c.value_layers)
    for start in range(c.num_layers - count + 1):
        yield ",".join(map(str, range(start, start + count)))


def plausible(question: str, told: Mapping[str, Any]) -> Any:
    """What most records have, to begin a search with.

    Args:
        told: the config fields that shapes tell, and `skips`, the rows of skip_weights.
    """
    layers, head_dim = told["num_layers"], told["dim"] // told["num_heads"]
    if question == "layer_order":
        orders = list(_orders(layers, told["skips"], told["passes"], told["loop_embeds"]))
        return (
            orders[len(orders) // 2] if orders else ""
        )  # no order fits: the model's check says so
    return {
        "activation": "leaky_relu2",
        "leaky_slope": 0.5,
        "rope_dims": 16 if head_dim > 16 else 0,
        "xsa_last_n": layers,
        "ln_scale": True,
        "resid_norm": False,
        "parallel_start": 2 * layers // 3 if told["lanes"] == 2 else -1,
        "value_embed_layers": f"{layers - 2},{layers - 1}",
        "attn_gate_scale": 1.0,
        "bos_resets": False,
        "bigram_trigram": False,
        "bigram_split": False,
        "word_starts": "none",
        "lane_split": "late",
        "lane_mixes": "attn",
        "lane_decay": "own",
        "final_lane": "mean",
    }[question]
