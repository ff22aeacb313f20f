"""The batched engine against the host's, on the CPU: the same factors, codes and damps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import packed

from golfpack.packer import torch_engine
from golfpack.packer.engine import HostEngine, ToFactor, ToRound
from golfpack.packer.format.steps import F16Steps, f16_steps, log_steps
from golfpack.packer.quantize.gptq import factorize
from golfpack.packer.recipe import load_recipe
from golfpack.packer.torch_engine import TorchEngine

HOST, TORCH = HostEngine(), TorchEngine(torch.device("cpu"), kernel=False)


def hessian(rng: np.random.Generator, size: int) -> np.ndarray:
    mixing = rng.standard_normal((size, size)) / np.sqrt(size) + 0.3 * np.eye(size)
    x = rng.standard_normal((4 * size, size)) @ mixing * np.exp(rng.standard_normal(size))
    return (x.T @ x / len(x)).astype(np.float32)


def rounding(rng: np.random.Generator, rows: int, cols: int, kind: str) -> ToRound:
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    row, col = 0.3 * np.exp(0.5 * rng.standard_normal(rows)), np.exp(rng.standard_normal(cols) / 2)
    order = rng.permutation(cols) if "ordered" in kind else None
    factor = factorize(hessian(rng, cols), damp=0.01, order=order)
    job = ToRound(w, log_steps(row, col), None, factor)
    if kind in ("two-sided", "two-sided, ordered", "searched"):
        row_order = rng.permutation(rows) if kind == "two-sided, ordered" else None
        job = replace(job, row_factor=factorize(hessian(rng, rows), damp=0.1, order=row_order))
        return replace(job, survivors=4, rate_weight=0.05) if kind == "searched" else job
    if kind == "clipped":
        return replace(job, steps=F16Steps(f16_steps(row).row_f16), limit=3)
    if kind == "groups":
        return replace(job, steps=f16_steps(np.exp(rng.standard_normal((rows, -(-cols // 8)))), 8))
    if kind == "cheap":
        return replace(job, rate_weight=0.06)
    return job if kind in ("plain", "ordered") else replace(job, factor=None)


KINDS = (
    "plain",
    "two-sided",
    "two-sided, ordered",
    "searched",
    "ordered",
    "clipped",
    "groups",
    "cheap",
    "nearest",
)
SHAPES = ((1, 1), (1, 9), (7, 1), (12, 20), (20, 12), (3, 140))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_shared_out_by_size_and_an_empty_matrix_takes_none(threads):
    rng = np.random.default_rng(5)
    large, small = rounding(rng, 130, 70, "searched"), rounding(rng, 9, 7, "plain")
    empty = replace(
        small, w=np.empty((9, 0), np.float32), factor=factorize(np.empty((0, 0)), damp=0.1)
    )
    empty = replace(empty, steps=log_steps(np.ones(9), np.ones(0)))
    work = [large, empty, small]
    for ours, alone in zip(HOST.codes(work, threads), work, strict=True):
        np.testing.assert_array_equal(ours, alone.run())


def test_codes_are_the_hosts_in_the_same_order(monkeypatch):
    monkeypatch.setattr(torch_engine, "BATCH_VALUES", 2000)  # batches of one and of several
    rng = np.random.default_rng(0)
    work = [rounding(rng, *shape, kind) for _ in range(3) for shape in SHAPES for kind in KINDS]
    work.append(ToRound(np.zeros((0, 4), np.float32), log_steps(np.ones(0), np.ones(4)), None))
    found, wanted = list(TORCH.codes(work, 1)), list(HOST.codes(work, 1))
    assert len(found) == len(work)
    for job, one, two in zip(work, found, wanted, strict=True):
        assert one.dtype == np.int32
        np.testing.assert_array_equal(one, two, err_msg=str(job.w.shape))


def test_factors_are_the_hosts_damps_included():
    rng = np.random.default_rng(1)
    flat = np.zeros((5, 5), np.float32)
    low = rng.standard_normal((2, 6))
    work = [
        ToFactor(hessian(rng, 5), 0.01),
        ToFactor(hessian(rng, 8), 0.01, rng.permutation(8)),
        ToFactor(flat, 0.01),  # counts as the identity
        ToFactor((low.T @ low).astype(np.float32), 0.0),  # singular: the damp must rise
        ToFactor(hessian(rng, 6), 0.1),
        ToFactor(hessian(rng, 6), 0.001, rng.permutation(6), 0.03),
    ]
    for one, two in zip(TORCH.factors(work, 1), HOST.factors(work, 1), strict=True):
        np.testing.assert_allclose(one.upper, two.upper, rtol=1e-4, atol=1e-5 * two.upper.max())
        np.testing.assert_array_equal(one.order, two.order)
        assert one.damp == two.damp
        assert one.upper.dtype == np.float32
    with pytest.raises(np.linalg.LinAlgError):
        list(TORCH.factors([ToFactor(np.array([[0.0, 1e3], [1e3, 0.1]]), 0.01)], 1))


def test_a_recipe_runs_to_the_same_bytes(make_state):
    recipe = load_recipe("rd")
    assert packed(recipe, make_state(engine=TORCH)).blob == packed(recipe, make_state()).blob
