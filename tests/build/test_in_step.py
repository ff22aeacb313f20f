"""Two networks in step: what layers are fitted to, by the plain definition, on any thread count."""

import numpy as np
import pytest
import torch
from conftest import TINY, agree, trained_looking

from golfpack.build import in_step as in_step_module
from golfpack.build.in_step import LEAST_FACTOR, InStep, Layer, layers_of
from golfpack.models import FAMILIES

RIDGE = 0.05
GOLF = FAMILIES["golf"]
GPT2 = {
    "vocab_size": 256, "num_layers": 2, "dim": 24, "num_heads": 4, "mlp_hidden": 40, "seq_len": 64,
}  # fmt: skip


def matrices(spec):
    return [t.name for t in spec.tensors if t.role not in ("vector", "embed", "head")]


def coarse(targets):
    """Off by as much as rounding is, but smoothly: noise of float32 makes no step of it."""
    return {n: w + 0.02 * np.sin(40 * w) for n, w in targets.items()}


@pytest.fixture(scope="module")
def text():
    return np.random.default_rng(3).integers(0, 256, (6, 32))


@pytest.fixture(scope="module")
def golf():
    spec = GOLF.spec(TINY)
    return spec, GOLF.module(spec.config, trained_looking(spec.config, 0))


def seen(module, name, writes, text):
    """Inputs of a layer (tokens, cols) and the stream it adds to (tokens, dim), or None."""
    found = {}
    handles = [
        module.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _m, args: found.update(x=args[0])
        )
    ]
    where = writes.get(name)
    if where is not None:
        enters = lambda _m, args: found.update(stream=where.enters(args))  # noqa: E731
        handles.append(module.get_submodule(where.block).register_forward_pre_hook(enters))
        if where.after is not None:
            before = module.get_submodule(where.after.removesuffix(".weight"))
            factor = writes[where.after].factor
            keep = lambda _m, _a, out: found.update(added=out if factor is None else factor * out)  # noqa: E731
            handles.append(before.register_forward_hook(keep))
    with torch.no_grad():
        module(torch.from_numpy(text))
    for handle in handles:
        handle.remove()
    stream = found.get("stream")
    if "added" in found:
        stream = stream + found["added"]
    flat = lambda x: x.flatten(0, -2).double().numpy()  # noqa: E731
    return flat(found["x"]), None if stream is None else flat(stream)


def by_definition(family, spec, weights, changed, layers, text):
    """Layer by layer, two whole forward passes each: the targets, before they are rounded."""
    floats = family.module(spec.config, weights)
    rounded = {n: w + changed[n].numpy() if n in changed else w for n, w in weights.items()}
    targets = {}
    for layer in layers:
        for name in layer.names:
            other = family.module(spec.config, rounded)
            x, stream = seen(floats, name, family.writes(floats), text)
            z, other_stream = seen(other, name, family.writes(other), text)
            w = weights[name].astype(np.float64)
            wanted = x @ w.T
            if stream is not None:
                factor = family.writes(floats)[name].factor
                f = None if factor is None else factor.detach().double().numpy()
                made_up = 1.0 if f is None else f / (f**2 + LEAST_FACTOR * np.mean(f**2))
                wanted += (stream - other_stream) * made_up
            hessian = z.T @ z
            ridge = RIDGE * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
            targets[name] = np.linalg.solve(hessian + ridge, z.T @ (wanted - z @ w.T)).T + w
        done = coarse({n: targets[n] for n in layer.names})
        rounded |= {n: w.astype(np.float32) for n, w in done.items()}
    return targets


def run(family, spec, weights, changed, text, threads=1, rounded=coarse):
    module = family.module(spec.config, weights)
    found = {}

    def note(targets):
        found.update(targets)
        return rounded(targets)

    layers = layers_of(module, spec, matrices(spec))
    ridge = dict.fromkeys(matrices(spec), RIDGE)
    writes = family.writes(module)
    step = InStep(module, spec, writes, dict(changed), ridge, layers, note, text, threads)
    step.run("cpu")
    return found, layers, module, step


def weights_of(spec):
    """Matrices as trained ones are; vectors around 1, which suits norms and does biases no harm."""
    if spec.family == "golf":
        return trained_looking(spec.config, 0)
    rng = np.random.default_rng(0)
    return {
        t.name: (float(t.role == "vector") + rng.normal(0, 0.2, t.shape)).astype(np.float32)
        for t in spec.tensors
    }


def embeddings_off(spec, weights):
    """What rounding might have done to the tables already."""
    return {
        t.name: torch.from_numpy(np.round(weights[t.name] / 0.1) * 0.1 - weights[t.name]).float()
        for t in spec.tensors
        if t.role == "embed"
    }


@pytest.mark.parametrize(
    ("name", "config"),
    [("golf", TINY), ("gpt2", GPT2)],
    ids=["factors and groups of inputs", "a table of positions"],
)
def test_layers_are_fitted_as_the_definition_has_it(name, config, text, monkeypatch):
    monkeypatch.setattr(in_step_module, "BATCH_TOKENS", 64)
    family = FAMILIES[name]
    spec = family.spec(config)
    weights = weights_of(spec)
    changed = embeddings_off(spec, weights)
    found, layers, _, _ = run(family, spec, weights, changed, text)
    expected = by_definition(family, spec, weights, changed, layers, text)
    assert list(found) == list(expected)
    moved = 0
    for n, target in found.items():
        agree(target, expected[n], 1e-3)
        moved += np.abs(expected[n] - weights[n]).max() > 0.01
    assert moved > len(found) / 2


def test_threads_change_no_bit_and_nothing_stays_behind(golf, text, monkeypatch):
    monkeypatch.setattr(in_step_module, "BATCH_TOKENS", 64)
    spec, module = golf
    weights = {n: p.numpy() for n, p in module.state_dict().items()}
    changed = embeddings_off(spec, weights)
    one, _, after, step = run(GOLF, spec, weights, changed, text)
    three, _, _, _ = run(GOLF, spec, weights, changed, text, threads=3)
    assert all(np.array_equal(one[n], three[n]) for n in one)
    assert all(np.array_equal(p.numpy(), weights[n]) for n, p in after.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in after.modules())
    for n, target in coarse(one).items():
        agree(step.changed[n], target - weights[n].astype(np.float64))


def test_where_nothing_was_lost_weights_stay(golf, text):
    spec, module = golf
    weights = {n: p.numpy() for n, p in module.state_dict().items()}
    found, _, _, _ = run(GOLF, spec, weights, {}, text, rounded=lambda targets: targets)
    assert set(found) == set(matrices(spec))
    for n, target in found.items():
        agree(target, weights[n], 1e-5)


def test_an_error_in_rounding_comes_out_as_it_is(golf, text, monkeypatch):
    monkeypatch.setattr(in_step_module, "BATCH_TOKENS", 64)
    spec, module = golf
    weights = {n: p.numpy() for n, p in module.state_dict().items()}

    def broken(_targets):
        raise ZeroDivisionError("rounding")

    with pytest.raises(ZeroDivisionError, match="rounding"):
        run(GOLF, spec, weights, {}, text, threads=2, rounded=broken)


def test_layers_share_inputs_and_are_called_once(golf):
    spec, module = golf
    one = [
        Layer(("blocks.0.attn.c_q.weight", "blocks.0.attn.c_k.weight", "blocks.0.attn.c_v.weight")),
        Layer(("blocks.0.attn.proj.weight",)),
        Layer(("blocks.0.mlp.fc.weight",)),
        Layer(("blocks.0.mlp.proj.weight",)),
    ]
    layers = layers_of(module, spec, [t.name for t in spec.tensors])
    assert layers[:4] == one
    assert len(layers) == 8
    assert layers_of(module, spec, ["blocks.0.mlp.fc.weight"]) == [one[2]]
    looped = GOLF.spec({**TINY, "passes": 2})
    again = GOLF.module(looped.config, trained_looking(looped.config, 0))
    assert layers_of(again, looped, matrices(looped)) == []
