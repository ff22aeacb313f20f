"""What names and shapes tell of a golf checkpoint, and what its user must tell.

The records save no config, and much of what they do leaves no trace in the shapes: rotated channels,
the order of the layers, slopes and scales. A checkpoint with none of their tensors is taken for the
baseline, with its options assumed. One that has some is surely not: what shapes cannot tell is then
asked for, since a wrong guess would run and merely predict badly.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from golfpack.data.id_lists import index_list
from golfpack.errors import UsageError
from golfpack.models.base import MissingOptions, StateDict, shape_of
from golfpack.models.golf.config import ENGRAM_HEADS, GolfConfig
from golfpack.models.golf.siblings import plausible

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")

# What is asked for, in words for the error message.
_QUESTIONS = {
    "activation": "of the MLP: relu2 or leaky_relu2",
    "leaky_slope": "slope of leaky_relu2 below zero, unless leaky_slopes has one for each block",
    "rope_dims": "rotated channels per head, 0 for all",
    "xsa_last_n": "last blocks with exclusive self-attention, 0 for none",
    "ln_scale": "whether block i's inputs are divided by sqrt(i + 1)",
    "layer_order": "the blocks as they are run, such as 0-5,3-5,6-10",
    "parallel_start": "first block with attention and MLP side by side, -1 for none",
    "attn_gate_scale": "factor inside the sigmoid of the attention gates",
    "value_embed_layers": "the blocks with value embeddings, such as 9,10",
    "bos_resets": "whether smearing stops at documents' first token",
    "lane_split": "whether lanes part before the first skip joins, early, or behind it, late",
    "lane_mixes": "which lanes are mixed with the embedding: attn or both",
    "final_lane": "what of the lanes goes on to the head: mean, attn or mlp",
    "lane_decay": "whether a lane is multiplied by its own residual weight or by both",
    "resid_norm": "whether the stream is normalised behind every skip",
    "bigram_trigram": "whether three hashed tokens are looked up too",
    "bigram_split": "whether pairs that end in a word's first token have half of the table",
    "word_starts": "the tokens that start a word: --tokenizer tells them",
}

# Options that only matter beside another: what the config must say for that.
_MATTERS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "leaky_slope": lambda c: c["activation"] == "leaky_relu2" and not c["leaky_slopes"],
    "leaky_slopes": lambda c: c["activation"] == "leaky_relu2",
    "rope_train_len": lambda c: c["rope_scaling"] == "ntk",
    "rope_factor": lambda c: c["rope_scaling"] == "yarn",
    "attn_gate_scale": lambda c: c["attn_gate"] == "plain",
    "attn_gate_source": lambda c: c["attn_gate"] in ("plain", "double"),
    "value_embed_layers": lambda c: c["value_embed_dim"] > 0,
    "bigram_hash": lambda c: c["bigram_size"] > 0,
    "bigram_trigram": lambda c: c["bigram_size"] > 0 and c["bigram_hash"] != "linear",
    "bigram_multiplier": lambda c: c["bigram_size"] > 0 and c["bigram_hash"] == "linear",
    "bos_resets": lambda c: (
        c["smear"] != "none" or (c["bigram_size"] > 0 and c["bigram_hash"] != "engram")
    ),
    "bos_id": lambda c: c["bos_resets"],
    "final_lane": lambda c: c["lanes"] == 2,
    "lane_split": lambda c: c["lanes"] == 2,
    "lane_mixes": lambda c: c["lanes"] == 2,
    "lane_decay": lambda c: c["lanes"] == 2,
    "bigram_split": lambda c: c["bigram_size"] > 0 and c["bigram_hash"] == "xor",
    "word_starts": lambda c: c["bigram_split"] or c["word_boost"],
}


def infer(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields of a golf checkpoint; see `Family.infer`."""
    vocab_size, width = shape_of(state, "tok_emb.weight", 2)
    dim = shape_of(state, "blocks.0.attn.c_q.weight", 2)[1]
    told: dict[str, Any] = {
        "vocab_size": vocab_size,
        "dim": dim,
        "embed_dim": 0 if width == dim else width,
        # Counted, not the highest index: a gap then shows up as a missing tensor.
        "num_layers": len({m[1] for m in map(BLOCK.fullmatch, state) if m}),
        "passes": shape_of(state, "pass_gate", 2)[0] if "pass_gate" in state else 1,
        "tied": "lm_head.weight" not in state,
    }
    told |= _infer_mlp(state, overrides)
    told |= _infer_heads(state, dim, overrides)
    told |= _infer_attention(state)
    told |= _infer_embedding(state)
    told |= _infer_trunk(state)
    told |= _infer_order(state, told, overrides)
    told |= _unused(told, overrides)
    skips = state["skip_weights"].shape[0] if "skip_weights" in state else 0
    _ask(_open_questions(told, overrides), {**told, "skips": skips}, overrides)
    return told


def _infer_mlp(state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    if "blocks.0.mlp.gate_up.weight" in state:
        rows = shape_of(state, "blocks.0.mlp.gate_up.weight", 2)[0]
        return {"mlp_hidden": rows // 2, "activation": "swiglu"}
    if overrides.get("activation") == "swiglu":
        raise UsageError(
            "activation swiglu needs tensors named mlp.gate_up.weight; this checkpoint has mlp.fc",
            "choose relu2 or leaky_relu2",
        )
    return {"mlp_hidden": shape_of(state, "blocks.0.mlp.fc.weight", 2)[0]}


def _infer_heads(state: StateDict, dim: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Head counts: from `q_gain`, or from the user where the model has none."""
    kv_name = "blocks.0.attn.c_k.weight"
    kv_dim = shape_of(state, kv_name, 2)[0]
    choices = {
        h: kv_dim * h // dim
        for h in range(1, dim // 2 + 1)
        if dim % (2 * h) == 0 and kv_dim * h % dim == 0 and h % (kv_dim * h // dim) == 0
    }
    if has_gain := "blocks.0.attn.q_gain" in state:
        heads = shape_of(state, "blocks.0.attn.q_gain", 1)[0]
    elif "num_heads" in overrides:
        heads = overrides["num_heads"]
    else:
        listed = ", ".join(f"{h} ({kv} KV)" for h, kv in choices.items())
        raise UsageError(
            f"the checkpoint's shapes leave the number of attention heads open: {listed}",
            "set it with --set model.num_heads=8",
        )
    if heads not in choices:
        raise UsageError(
            f"tensor {kv_name!r} has {kv_dim} rows, which do not fit {heads} heads over dim {dim}",
            f"feasible head counts: {', '.join(map(str, choices)) or 'none'}",
        )
    return {"num_heads": heads, "num_kv_heads": choices[heads], "q_gain": has_gain}


def _infer_attention(state: StateDict) -> dict[str, Any]:
    """Value residual, value embeddings and gates."""
    attn = "blocks.0.attn."
    told: dict[str, Any] = {"value_residual": "none", "attn_gate": "none", "attn_gate_window": 0}
    told["xsa_strength"] = attn + "xsa_alpha" in state
    if attn + "vr_lambda" in state:
        told["value_residual"] = "lambda"
    elif attn + "vrl_alpha" in state:
        told["value_residual"] = "sigmoid"
    if attn + "attn_gate.weight" in state:
        told["attn_gate"] = "affine"
    for kind, name in (("plain", "attn_gate_w"), ("double", "attn_gate_proj.weight")):
        if attn + name in state:
            window = shape_of(state, attn + name, 2)[1]
            told |= {"attn_gate": kind, "attn_gate_window": window}
    table = "ve_shared.embed.weight"
    return told | {"value_embed_dim": shape_of(state, table, 2)[1] if table in state else 0}


def _infer_embedding(state: StateDict) -> dict[str, Any]:
    """Smearing and the table of token pairs."""
    told: dict[str, Any] = {"smear": "none", "smear_window": 0}
    if "smear_gate.weight" in state:
        window = shape_of(state, "smear_gate.weight", 2)[1]
        told = {"smear": "window", "smear_window": window}
    elif "smear.gate" in state:
        told["smear"] = "channels"
    table = "bigram.embed.weight"
    rows, width = shape_of(state, table, 2) if table in state else (0, 0)
    boosted = "word_start_boost" in state
    told |= {"bigram_size": rows, "bigram_dim": width, "word_boost": boosted}
    if "bigram.ngram_gate" in state:
        tables = shape_of(state, "bigram.proj.weight", 2)[1] // max(width, 1)
        told |= {"bigram_hash": "engram", "bigram_trigram": tables > ENGRAM_HEADS}
    return told


def _infer_trunk(state: StateDict) -> dict[str, Any]:
    lanes: dict[str, Any] = {}
    if "smear_gate.weight" in state:  # pull request 1855 and its kin know one form of lanes alone
        lanes = {"lane_split": "early", "lane_mixes": "attn", "lane_decay": "own"}
    return lanes | {
        "skip_gates": "skip_gates" in state,
        "lanes": 2 if "parallel_post_lambdas" in state else 1,
        "loop_embeds": shape_of(state, "loop_embed.weight", 2)[0]
        if "loop_embed.weight" in state
        else 0,
    }


def _infer_order(
    state: StateDict, told: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The plain order, where the number of skips is that of blocks run once per pass."""
    if "skip_weights" not in state:
        return {}  # reported as missing later on
    rows = state["skip_weights"].shape[0]
    if "layer_order" not in overrides:
        plain = told["num_layers"] * told["passes"] // 2
        # Fewer skips than that are of no order: the tensors then contradict each other.
        return {"layer_order": ""} if rows <= plain else {}
    order = index_list(overrides["layer_order"], "layer_order")
    if order and len(order) // 2 != rows:
        raise UsageError(
            f"layer_order {overrides['layer_order']!r} has {len(order)} virtual layers, but the "
            f"checkpoint's skip_weights are of {2 * rows} or {2 * rows + 1}",
            "every pair of virtual layers, first with last and so on, has a row of skip_weights",
        )
    return {}


def _unused(told: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say nothing about this model, at their defaults: nobody needs to hear of them."""
    defaults = {f.name: f.default for f in dataclasses.fields(GolfConfig)}
    config = {**defaults, **overrides, **told}
    return {
        name: defaults[name]
        for name, matters in _MATTERS.items()
        if name not in overrides and not matters(config)
    }


def _open_questions(told: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """The options without which a checkpoint of a record cannot be run rightly."""
    questions: list[str] = []
    if "layer_order" not in told:
        questions.append("layer_order")
    if told["skip_gates"] or told["lanes"] == 2:
        questions.append("parallel_start")
    if told["lanes"] == 2 and "lane_split" not in told:
        questions += ["lane_split", "lane_mixes", "lane_decay", "final_lane"]
    if told["attn_gate"] == "plain":
        questions.append("attn_gate_scale")
    if told["value_embed_dim"]:
        questions.append("value_embed_layers")
    if told["smear"] == "window":
        questions.append("bos_resets")
    questions += _of_pairs(told, overrides)
    others = [told[kind] != "none" for kind in ("value_residual", "attn_gate", "smear")]
    if any((*others, questions, told["xsa_strength"], told["bigram_size"])):
        questions = ["activation", "rope_dims", "xsa_last_n", "ln_scale", *questions]
    return questions


def _of_pairs(told: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """What the records with a table of token pairs leave open."""
    questions: list[str] = []
    if told["smear"] == "channels" and told["bigram_size"]:
        questions.append("resid_norm")
    if told.get("bigram_hash") == "engram" and "leaky_slopes" not in overrides:
        questions.append("leaky_slope")  # 0.3, or another one in every block
    if told["word_boost"]:
        questions += ["bigram_trigram", "bigram_split", "word_starts"]
    return questions


def _ask(questions: list[str], told: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    missing = [q for q in questions if q not in told and q not in overrides]
    if missing:
        listed = "; ".join(f"{name} ({_QUESTIONS[name]})" for name in missing)
        raise MissingOptions(
            f"the checkpoint is of a record, whose shapes do not tell: {listed}",
            "write them into <checkpoint stem>.config.json beside it, or use --set model.NAME=VALUE; "
            "docs/record_checkpoints.md lists the records' values, golfpack probe finds them by text",
            {name: plausible(name, told) for name in missing},
        )
