"""Calibration against a brute-force float64 reference, and the same bits on any number of threads."""

import gc
import weakref
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from golfpack.calib import cache
from golfpack.calib import stats as stats_module
from golfpack.calib.cache import cached
from golfpack.calib.collect import Collector, probe
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.golf.family import spec as golf_spec
from golfpack.packer.quantize.sensitivity import RADIAL
from golfpack.train.trainer import complete_options

SEED = 5
BATCH = 32  # tokens: two sequences of 16
CONFIG = {
    "vocab_size": 24, "num_layers": 1, "dim": 8, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 12, "passes": 2,
}  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def small(request):
    """A looped model whose blocks are used twice a pass, its spec and tokens."""
    spec = golf_spec({**CONFIG, "tied": request.param})
    rng = np.random.default_rng(0)
    weights = {t.name: rng.standard_normal(t.shape).astype("f4") for t in spec.tensors}
    tokens = CalibTokens(rng.integers(0, 24, (5, 16)), "synthetic")
    return FAMILIES["golf"].module(spec.config, weights), spec, tokens


def run(small, **options):
    model, spec, tokens = small
    given = {"gradients": True, "seed": SEED, "threads": 1, **options}
    with patch("golfpack.calib.stats.BATCH_TOKENS", BATCH):
        return calibrate(model, spec, tokens, **given)


def flat_stats(stats):
    arrays = {f"{n}/fisher": v for n, v in stats.vector_fisher.items()}
    for name, uses in stats.uses.items():
        for i, use in enumerate(uses):
            arrays |= {
                f"{name}/{i}/{k}": v for k, v in vars(use).items() if isinstance(v, np.ndarray)
            }
    return arrays


def assert_same_bits(a, b):
    a, b = flat_stats(a), flat_stats(b)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def brute_force(small):
    """Sums over tokens by hooks and autograd on the float64 weights, a sequence at a time."""
    model, spec, tokens = small
    params = {n: p.detach().double().requires_grad_(True) for n, p in model.named_parameters()}
    sums: dict[tuple, np.ndarray] = {}

    def add(key, value):
        sums[key] = sums.get(key, 0) + value.detach().numpy()

    for index, start in enumerate(range(0, len(tokens.sequences), 2)):
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + index)
        for sequence in torch.from_numpy(tokens.sequences[start : start + 2]).split(1):
            logits, seen = watched(model, spec, params, sequence)
            p = logits.detach().softmax(-1)
            signs = 2 * torch.empty(p.shape).bernoulli_(0.5, generator=generator).double() - 1
            drawn = p.sqrt() * signs
            logits.backward(drawn - p * drawn.sum(-1, keepdim=True))
            for (name, i, kind), x, y in seen:
                for quantity, value in one_use(name, kind, x, y, logits).items():
                    add((name, i, quantity), value)
            for t in spec.tensors:
                grad = params[t.name].grad
                if not t.hooks and grad is not None:
                    add((t.name, "fisher"), grad.square())
                params[t.name].grad = None
    return sums


def watched(model, spec, params, batch):
    """Logits of the model with these parameters, and (key, input, output) of every hooked call."""
    seen: list[tuple] = []

    def watch(key):
        def note(_module, args, out):
            out.retain_grad()
            seen.append((key, args[0], out))

        return note

    handles = [
        model.get_submodule(hook.module).register_forward_hook(watch((t.name, i, hook.kind)))
        for t in spec.tensors
        for i, hook in enumerate(t.hooks)
    ]
    logits = functional_call(model, params, (batch,)).flatten(0, 1).double()
    for handle in handles:
        handle.remove()
    return logits, seen


def one_use(name, kind, x, y, logits):
    g = y.grad.flatten(0, -2)
    if kind == "embedding":
        counts = F.one_hot(x.flatten(), 24).sum(0).double()
        along = (g * y.detach().flatten(0, -2)).sum(1).square()
        return {
            "hessian": g.T @ g,
            "row_weight": counts,
            "along": (along / y.detach().flatten(0, -2).square().sum(1)).sum(),
        }
    x = x.flatten(0, -2)
    size = squares(name, y, logits, g).sum(1).sqrt()
    return {
        "hessian": x.T @ (x * size[:, None]),
        "size": size.sum(),
        "plain": x.T @ x,
        "input_abs": x.abs().sum(0),
        "row_weight": squares(name, y, logits, g).sum(0),
        "output_cov": g.T @ g,
        "count": torch.tensor(float(len(g))),
    }


def squares(name, z, logits, g):
    """(dL/dy)^2; for the head its mean over all signs, p (1 - p) (dlogit/dz)^2."""
    if name not in ("tok_emb.weight", "lm_head.weight"):
        return g.square()
    p = logits.detach().softmax(-1)
    slope = 1 - torch.tanh(z.detach().flatten(0, 1) / 30).square()
    return p * (1 - p) * slope.square()


def close(a, b, what):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max(), err_msg=str(what))


def test_probes_have_the_fisher_information_of_a_softmax():
    p = torch.tensor([0.97, 0.02, 0.01, 0.0], dtype=torch.float64)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    v = probe(p.expand(16, 4), signs)
    torch.testing.assert_close(v.T @ v / 16, p.diag() - torch.outer(p, p), atol=1e-15, rtol=0)


def test_statistics_are_those_of_the_definition(small):
    _, spec, tokens = small
    stats, sums, n = run(small), brute_force(small), tokens.sequences.size
    assert stats.tokens == n
    for t in spec.tensors:
        if not t.hooks:
            close(
                stats.vector_fisher[t.name], sums.get((t.name, "fisher"), np.zeros(t.shape)) / n, t
            )
            continue
        assert [u.kind for u in stats.uses[t.name]] == [h.kind for h in t.hooks]
        for i, use in enumerate(stats.uses[t.name]):
            key = (t.name, i)
            if use.kind == "embedding":
                close(use.hessian, sums[*key, "hessian"] / n, key)
                # A token that was never seen still occurs: one more count each.
                close(use.row_weight, (sums[*key, "row_weight"] + 1) / (n + 24), key)
                power = np.trace(sums[*key, "hessian"])
                radial = sums[*key, "along"] * len(use.hessian) / power
                np.testing.assert_allclose(use.radial, [radial], rtol=2e-4, atol=1e-9)
                continue
            uses = sums[*key, "count"]  # of the block: tokens times virtual layers
            assert uses == n * (2 if t.block is not None else 1)
            hessian = sums[*key, "hessian"] * uses / sums[*key, "size"] / n
            close(use.hessian, hessian, key)
            close(use.input_abs, sums[*key, "input_abs"] / n, key)
            close(use.row_weight, sums[*key, "row_weight"] / uses, key)
            if use.output_cov is not None:
                close(use.output_cov, sums[*key, "output_cov"] / uses, key)


@pytest.mark.parametrize(("name", "normalised"), [("golf", True), ("llama", False)])
def test_gradients_tell_whether_rows_are_normalised_once_looked_up(name, normalised):
    """golf norms an embedding before it does anything else; llama adds to it as it is."""
    family = FAMILIES[name]
    shape = {k: v for k, v in CONFIG.items() if k != "passes"} | {"seq_len": 16}
    spec = family.spec(complete_options(family, shape, 16))
    rng = np.random.default_rng(1)
    # Of a size that llama's norms, further on, do not take out alone.
    sizes = {t.name: 10.0 if t.role == "embed" else 1.0 for t in spec.tensors}
    weights = {
        t.name: (sizes[t.name] * rng.standard_normal(t.shape)).astype("f4") for t in spec.tensors
    }
    tokens = CalibTokens(rng.integers(0, 24, (4, 16)), "synthetic")
    stats = run((family.module(spec.config, weights), spec, tokens))
    (radial,) = (
        float(use.radial[0])
        for uses in stats.uses.values()
        for use in uses
        if use.radial is not None
    )
    assert radial < 1e-6 if normalised else radial > 5 * RADIAL


def test_threads_change_no_bit(small):
    once = run(small)
    assert_same_bits(once, run(small, threads=3))
    other = run(small, seed=SEED + 1)
    assert any(not np.array_equal(v, flat_stats(other)[k]) for k, v in flat_stats(once).items())


def test_without_gradients_all_tokens_count_alike_and_nothing_else_is_known(small):
    plain, sums = run(small, gradients=False), brute_force(small)
    assert plain.vector_fisher == {}
    for name, uses in plain.uses.items():
        found = [sums[key] for key in sums if key[0] == name and key[-1] == "plain"]
        for use, wanted in zip(uses, found, strict=True):
            assert use.row_weight is None
            assert use.output_cov is None
            close(use.hessian, wanted / small[2].sequences.size, name)


def test_inputs_of_what_no_gradient_reaches_count_alike(small):
    model, spec, tokens = small
    weights = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    weights["blocks.0.attn.proj.weight"][:] = 0
    dead = FAMILIES["golf"].module(spec.config, weights), spec, tokens
    full, plain = run(dead), run(dead, gradients=False)
    for name in ("blocks.0.attn.c_q.weight", "blocks.0.attn.c_v.weight"):
        assert not full.uses[name][0].row_weight.any()
        close(full.uses[name][0].hessian, plain.uses[name][0].hessian, name)


def test_the_model_the_threads_and_the_random_state_are_left_alone(small):
    model = small[0]
    before = {n: p.clone() for n, p in model.named_parameters()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    numpy_state = str(np.random.get_state())  # noqa: NPY002
    calls = []
    run(small, progress=lambda *a: calls.append(a[:2]))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n])
        assert not p.requires_grad
        assert p.grad is None
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_that_overflows_is_named(small):
    model, spec, tokens = small
    weights = {n: p.numpy().copy() for n, p in model.named_parameters()}
    weights["blocks.0.mlp.fc.weight"] *= 1e20
    broken = FAMILIES["golf"].module(spec.config, weights)
    for gradients in (True, False):
        with pytest.raises(UsageError, match="not finite"):
            run((broken, spec, tokens), gradients=gradients)


# --- the cache -------------------------------------------------------------------------------------


def test_a_hit_is_the_same_to_the_bit_and_measures_nothing(small, tmp_path):
    stats = run(small)
    inputs = {"checkpoint": "abc", "shape": (5, 16)}
    made = []

    def make():
        made.append(1)
        return stats

    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        got = cached(folder, inputs, make)
        assert_same_bits(got, stats)
        kept = (got.tokens, got.source, got.tokens_sha256, list(got.uses), list(got.vector_fisher))
        assert kept == (
            stats.tokens, stats.source, stats.tokens_sha256, list(stats.uses),
            list(stats.vector_fisher),
        )  # fmt: skip
        assert {n: [u.kind for u in us] for n, us in got.uses.items()} == {
            n: [u.kind for u in us] for n, us in stats.uses.items()
        }
    assert len(made) == 1
    cached(folder, {**inputs, "checkpoint": "abd"}, make)
    assert len(made) == 2
    cached(None, inputs, make)
    assert len(made) == 3


def test_nothing_of_the_work_stays_in_memory(small, monkeypatch):
    """A last sequence's graph, with hooks that hold all sums, is what no garbage collector finds."""
    made = []

    class Watched(Collector):
        def __post_init__(self):
            super().__post_init__()
            made.extend(map(weakref.ref, (self, self.sums, self.model)))

    monkeypatch.setattr(stats_module, "Collector", Watched)
    run(small)
    gc.collect()
    assert made
    assert [ref() for ref in made] == [None] * len(made)


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "another archive"])
def test_a_damaged_entry_is_measured_again(small, tmp_path, damage):
    stats = replace(run(small), source="second")
    cached(tmp_path, {}, lambda: stats)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    bad = {
        "empty": b"", "truncated": good[: len(good) // 2], "noise": b"\x93NUMPY" + good[:99],
        "another archive": (tmp_path / "other.npz").read_bytes(),
    }  # fmt: skip
    (tmp_path / "other.npz").unlink()
    path.write_bytes(bad[damage])
    assert cached(tmp_path, {}, lambda: stats).source == "second"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert_same_bits(cached(tmp_path, {}, lambda: pytest.fail("was not stored again")), stats)


def test_the_version_is_part_of_the_key(small, tmp_path, monkeypatch):
    stats = run(small)
    cached(tmp_path, {}, lambda: stats)
    monkeypatch.setattr(cache, "STATS_VERSION", "another")
    cached(tmp_path, {}, lambda: stats)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write") as e:
        cached(tmp_path / "file" / "cache", {}, lambda: pytest.fail("measured in vain"))
    assert "--no-cache" in (e.value.hint or "")


def test_a_disk_that_fills_up_leaves_nothing_behind(small, tmp_path):
    full = OSError(28, "No space left on device")
    with patch.object(np, "savez", side_effect=full), pytest.raises(UsageError, match="No space"):
        cached(tmp_path, {}, lambda: run(small))
    assert not list(tmp_path.iterdir())
