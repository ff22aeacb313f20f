"""The gpt2 family against a float64 reference, against transformers, and in all its layouts."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import agree

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.gpt2.family import GPT2
from golfpack.models.gpt2.net import Gpt2Config

CONFIG = {
    "vocab_size": 23, "num_layers": 2, "dim": 12, "num_heads": 3, "mlp_hidden": 20, "seq_len": 16,
    "tied": True, "bias": True, "activation": "gelu_tanh", "norm_eps": 1e-3,
}  # fmt: skip
HF = {
    "model_type": "gpt2", "n_head": 3, "n_layer": 2, "n_embd": 12, "n_positions": 16,
    "layer_norm_epsilon": 1e-3, "activation_function": "gelu_new",
}  # fmt: skip
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def random_weights(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        t.name: (rng.standard_normal(t.shape) / t.shape[-1] ** 0.5).astype(np.float32)
        for t in GPT2.spec(config).tensors
    }


def reference_logits(w, tokens, heads, eps, exact):
    """Logits (T, V) of one sequence in float64."""
    w = {n: a.astype(np.float64) for n, a in w.items()}
    zero = np.zeros(1)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps)
        return x * w[name + ".weight"] + w.get(name + ".bias", zero)

    def linear(x, name):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", zero)

    def gelu(x):
        if exact:
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    n = len(tokens)
    x = w["wte.weight"][tokens] + w["wpe.weight"][:n]
    for i in range(2):
        q, k, v = np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, axis=1)
        out = []
        for a, b, c in zip(*(np.split(y, heads, axis=1) for y in (q, k, v)), strict=True):
            scores = a @ b.T / math.sqrt(a.shape[1])
            scores[np.triu_indices(n, 1)] = -np.inf
            p = np.exp(scores - scores.max(1, keepdims=True))
            out.append(p / p.sum(1, keepdims=True) @ c)
        x = x + linear(np.concatenate(out, 1), f"h.{i}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


@pytest.mark.parametrize(
    "changes", [{}, {"bias": False}, {"tied": False}, {"activation": "gelu"}], ids=str
)
def test_logits_are_the_formula(changes):
    config = {**CONFIG, **changes}
    weights = random_weights(config)
    tokens = np.random.default_rng(1).integers(0, 23, 13)
    model = GPT2.module(config, weights).double()
    got = model(torch.from_numpy(tokens)[None])[0].numpy()
    expected = reference_logits(weights, tokens, 3, 1e-3, config["activation"] == "gelu")
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_parameters_are_counted_without_memory():
    assert GPT2.spec(vars(Gpt2Config(50257, 12, 768, 12, 3072, 1024))).numel == 124_439_808


def test_decoding_with_a_cache_gives_the_same_logits():
    model = GPT2.module(CONFIG, random_weights(CONFIG))
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 23, (2, 12)))
    full = model(tokens)
    for cuts in ([1] * 12, [5, 4, 3]):
        cache = KVCache(12)
        parts = [model(part, cache=cache) for part in tokens.split(cuts, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-4, rtol=0)


def as_transformers(weights, prefix):
    """The same model as transformers saves it: Conv1D matrices (in, out), masks, maybe a prefix."""
    out = {}
    for name, w in weights.items():
        out[prefix + name] = torch.tensor(w.T if name.endswith(CONV1D) else w).contiguous()
    for i in range(2):
        out[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16).tril().to(torch.uint8)
        out[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return out


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_the_layout_of_transformers(tmp_path, prefix):
    weights = random_weights(CONFIG)
    state = as_transformers(weights, prefix)
    state["lm_head.weight"] = torch.tensor(weights["wte.weight"])
    (tmp_path / "config.json").write_text(json.dumps(HF))
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = load_checkpoint(tmp_path / "pytorch_model.bin")
    assert (found.family, found.config, found.assumed) == (GPT2, CONFIG, {})
    for name, w in weights.items():
        np.testing.assert_array_equal(found.weights[name], w)
    said = "; ".join(found.notes)
    assert all(part in said for part in ("4 causal masks", "transposed", "lm_head.weight is wte"))


def test_the_layout_of_nanogpt(tmp_path):
    config = {**CONFIG, "bias": False, "activation": "gelu", "norm_eps": 1e-5}
    weights = random_weights(config)
    state = {f"_orig_mod.transformer.{n}": torch.tensor(w) for n, w in weights.items()}
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    trained = {"n_head": 3, "n_layer": 2, "n_embd": 12, "block_size": 16, "vocab_size": 23}
    torch.save({"model": state, "model_args": trained, "iter_num": 7}, tmp_path / "ckpt.pt")
    found = load_checkpoint(tmp_path / "ckpt.pt")
    assert found.config == config
    for name, w in weights.items():
        np.testing.assert_array_equal(found.weights[name], w)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({"model_type": "gpt_neo"}, "model_type 'gpt_neo'"),
        ({"n_head": 5}, "5 heads do not divide"),
        ({"n_head": None}, "heads open: 1, 2, 3, 4, 6, 12"),
    ],
)  # fmt: skip
def test_configs_it_cannot_compute_are_refused(tmp_path, changes, says):
    (tmp_path / "config.json").write_text(json.dumps({**HF, **changes}))
    state = {n: torch.tensor(w) for n, w in random_weights(CONFIG).items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(state))
    with pytest.raises(UsageError) as caught:
        load_checkpoint(tmp_path / "model.safetensors")
    assert says in caught.value.message


def test_transformers_agrees(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=40, n_positions=32, n_embd=24, n_layer=3, n_head=4, resid_pdrop=0.0
        )
    )
    theirs.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert (found.config["num_heads"], found.config["tied"]) == (4, True)
    model = found.module()
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, 40, (2, 32)))
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
    agree(model(tokens), expected)
