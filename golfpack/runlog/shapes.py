"""How many weights a model of another system has, from its configuration alone.

Sources: the models of TheApeMachine/decoupled-bottleneck-attention (v27, v29) and thomasdavis/alpha2.
"""

from collections.abc import Mapping
from typing import Any


def bottleneck_parameters(config: Mapping[str, Any]) -> int | None:
    """Weights of a decoupled-bottleneck model, tied keys counted once; None without its widths."""
    try:
        return _bottleneck(config)
    except (KeyError, TypeError):
        return None


def _bottleneck(c: Mapping[str, Any]) -> int:
    dim, embed = c["d_model"], c["embed_dim"]
    embedding = c["vocab_size"] * embed + (0 if embed == dim else 2 * dim * embed)
    mlp = (3 if c["mlp"] == "swiglu" else 2) * dim * c["d_ff"]
    norms = 4 * dim  # two per block, each a gain and a bias
    block = _attention(c) + mlp + norms + (c["n_head"] if c["learned_temp"] else 0)
    return embedding + c["n_layer"] * block + 2 * dim


def _attention(c: Mapping[str, Any]) -> int:
    """Projections, and the null key and value where there are."""
    dim, mode = c["d_model"], c["attn_mode"]
    values = dim if mode == "standard" else c["attn_dim"]
    queries = c["sem_dim"] + c["geo_dim"] if mode == "decoupled" else values
    keys, made_values = queries, values
    if mode == "gqa":
        keys = made_values = (c["kv_head"] or c["n_head"]) * (values // c["n_head"])
    null = queries + values if c["null_attn"] else 0
    made_keys = 0 if c["tie_qk"] else keys
    return dim * (queries + made_keys + made_values + values) + null


def alpha_parameters(config: Mapping[str, Any]) -> int | None:
    """Weights of an ALPH model (untied head, learned positions); None without its widths."""
    try:
        dim, layers = config["nEmbd"], config["nLayer"]
        tables = 2 * config["vocabSize"] * dim + config["blockSize"] * dim
        return tables + layers * (12 * dim * dim + 4 * dim) + 2 * dim
    except (KeyError, TypeError):
        return None
