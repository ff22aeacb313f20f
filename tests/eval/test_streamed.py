"""Evaluation token by token through a cache."""

import numpy as np
import pytest
from conftest import agree
from toys import run_mode, scorer_of, toy_tokens

from golfpack.errors import UsageError
from golfpack.eval.choose import choose_mode
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.eval.legality import check_legality
from golfpack.eval.modes import Windowed
from golfpack.eval.streamed import Streamed
from golfpack.kv.cache import observe
from golfpack.kv.policy import stored_as
from golfpack.models.ranks import ALONE


@pytest.mark.parametrize("count", [33, 130, 1200])
def test_an_fp32_cache_scores_as_plain_windows_do(tiny, count):
    tokens, scorer = toy_tokens(count), scorer_of(tiny)
    plain = run_mode(Windowed(32, 32), scorer, tokens)
    layout = observe(scorer.model)
    streamed = run_mode(Streamed(32, layout), scorer, tokens)
    agree(streamed.nll, plain.nll)
    np.testing.assert_array_equal(streamed.context, plain.context)


def test_fewer_bits_change_more(tiny):
    tokens, scorer = toy_tokens(600), scorer_of(tiny)
    plain = run_mode(Windowed(64, 64), scorer, tokens).nll
    apart = []
    for kind in ("fp16", "q8_0", "q4_0"):
        layout = stored_as(observe(scorer.model), kind, residual=4)
        apart.append(np.abs(run_mode(Streamed(64, layout), scorer, tokens).nll - plain).mean())
    assert 0 < apart[0] < apart[1] < apart[2] / 4


def test_a_run_is_legal(tiny):
    tokens, scorer = toy_tokens(150), scorer_of(tiny)
    mode = Streamed(48, stored_as(observe(scorer.model), "q8_0", residual=8))
    log = run_mode(mode, scorer, tokens)
    assert all(c.passed for c in check_legality(mode, scorer, tokens, 256, ALONE, log))
    assert mode.options() == {
        "window": 48, "stride": 48, "kv_cache": "k=q8_0/24,v=q8_0/24", "kv_residual": 8,
        "kv_bytes": 2 * 2 * (48 * 26 + 8 * 24 * 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "plain", "kv_cache": "q8_0"}, "plain windows have no KV cache"),
        ({"mode": "stream", "stride": 4}, "goes with no stride"),
        ({"mode": "stream", "ttt": "sgd"}, "goes with no stride and no --ttt"),
        ({"mode": "stream", "compiled": "default"}, "--compile cannot be used with --mode stream"),
        ({"mode": "stream", "kv_cache": "k=q8_0"}, "this model caches k, v"),
    ],
)
def test_what_does_not_go_together(tiny_path, changes, message):
    options = EvalOptions(tiny_path, "nothing.bin", tiny_path, **changes)
    with pytest.raises(UsageError, match=message):
        evaluate(options)


def test_the_mode_is_made_where_the_model_is_known():
    with pytest.raises(UsageError, match="--mode stream"):
        choose_mode("stream", None, None, None, 64, None)
