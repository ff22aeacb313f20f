"""The Llama formula in float64 numpy, by Meta's names and with interleaved rotary pairs."""

import math

import numpy as np


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * weight


def rotate_pairs(x, base):
    """(T, D) with channels 2i and 2i + 1 as one complex number, turned by t / base^(2i / D)."""
    length, width = x.shape
    angles = np.outer(np.arange(length), base ** (-np.arange(0, width, 2) / width))
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    return np.stack((turned.real, turned.imag), -1).reshape(length, width)


def attend(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[np.triu_indices(len(q), 1)] = -np.inf
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) @ v


def reference_logits(w, tokens, *, layers, heads, kv_heads, base, eps):
    """Logits (T, V) of one sequence; `w` by Meta's names."""
    w = {n: a.astype(np.float64) for n, a in w.items()}
    x = w["tok_embeddings.weight"][tokens]
    for i in range(layers):
        p = f"layers.{i}."
        h = norm(x, w[p + "attention_norm.weight"], eps)
        q, k, v = (h @ w[f"{p}attention.w{n}.weight"].T for n in "qkv")
        width = q.shape[1] // heads
        out = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            shared = head * kv_heads // heads
            kv = slice(shared * width, (shared + 1) * width)
            out.append(
                attend(rotate_pairs(q[:, own], base), rotate_pairs(k[:, kv], base), v[:, kv])
            )
        x = x + np.concatenate(out, 1) @ w[p + "attention.wo.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"], eps)
        gate, up = (h @ w[f"{p}feed_forward.w{n}.weight"].T for n in (1, 3))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "feed_forward.w2.weight"].T
    head = w.get("output.weight", w["tok_embeddings.weight"])
    return norm(x, w["norm.weight"], eps) @ head.T


META = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm", "lm_head": "output",
}  # fmt: skip


def to_meta(weights, head_dim):
    """The same model by Meta's names: rows of q and k from halves to pairs, one row at a time."""
    out = {}
    for name, w in weights.items():
        if "q_proj" in name or "k_proj" in name:
            rows = []
            for start in range(0, len(w), head_dim):
                for i in range(head_dim // 2):
                    rows += [w[start + i], w[start + head_dim // 2 + i]]
            w = np.stack(rows)
        for ours, theirs in META.items():
            name = name.replace(ours + ".weight", theirs + ".weight")
        out[name.removeprefix("model.")] = w
    return out
