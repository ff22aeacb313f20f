"""Test-time training against plain loops that do the same the slow way."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import agree
from eval.toys import BOS, run_mode, scorer_of, toy_tokens
from torch.func import functional_call

from golfpack.eval.adapters import Adapters, Sites, find_slots
from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Stream, Windowed
from golfpack.eval.scorer import module_shapes
from golfpack.eval.ttt_lora import LORA_ROLES, LoraOptions, LoraTtt, by_length
from golfpack.eval.ttt_phased import PhasedOptions, PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt, cosine
from golfpack.models.golf.family import build, spec
from golfpack.models.ranks import ALONE

SGD = SgdOptions(lr=0.01, chunk_tokens=100, batch_seqs=3, epochs=2)
# Roles whose weights are used once, so that a reference can change the weight itself.
LORA = LoraOptions(
    rank=3, alpha=6.0, lr=0.02, chunk=7, window=20, batch_docs=4, weight_decay=0.1,
    targets=("attn_q", "attn_out", "mlp_in", "mlp_out"),
)  # fmt: skip


def losses_of(call, tokens):
    return F.cross_entropy(call(tokens[None, :-1])[0], tokens[1:], reduction="none")


def sgd_by_hand(tiny, tokens, window, options, prepare=lambda model: None):
    """Score a chunk's plain windows, then train on its sequences, one by one, momentum by hand."""
    model = tiny.module().requires_grad_(True)
    prepare(model)
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    nll = []
    chunks = -(-(len(tokens) - 1) // options.chunk_tokens)
    starts = range(0, len(tokens) - 1, window)
    for chunk in range(chunks):
        lo, hi = chunk * options.chunk_tokens, (chunk + 1) * options.chunk_tokens
        with torch.no_grad():
            nll += [losses_of(model, tokens[s : s + window + 1]) for s in starts if lo <= s < hi]
        if chunk == chunks - 1:
            break
        inside = tokens[lo : hi + 1]
        rows = [
            inside[i : i + window + 1]
            for i in range(0, len(inside) - window, window)
        ]  # fmt: skip
        rate = options.lr * 0.5 * (1 + math.cos(math.pi * chunk / (chunks - 1)))
        for _ in range(options.epochs):
            for i in range(0, len(rows), options.batch_seqs):
                batch = rows[i : i + options.batch_seqs]
                model.zero_grad()
                torch.stack([losses_of(model, r).mean() for r in batch]).mean().backward()
                grads = {n: p.grad for n, p in model.named_parameters()}
                norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
                for name, p in model.named_parameters():
                    velocity[name].mul_(options.momentum).add_(
                        grads[name], alpha=min(1.0, options.clip / norm)
                    )
                    p.data -= rate * velocity[name]
    return torch.cat(nll).numpy()


@pytest.mark.parametrize("batch_tokens", [40, 10_000])
def test_sgd_is_the_plain_loop(tiny, batch_tokens):
    tokens = toy_tokens(330)
    log = run_mode(SgdTtt(20, 20, SGD), scorer_of(tiny, batch_tokens=batch_tokens), tokens)
    expected = sgd_by_hand(tiny, torch.from_numpy(tokens), 20, SGD)
    np.testing.assert_allclose(log.nll, expected, atol=2e-4)
    agree(log.nll.mean(), expected.mean())
    still = run_mode(Windowed(20, 20), scorer_of(tiny), tokens).nll
    agree(log.nll[:100], still[:100])
    assert np.abs(log.nll[100:] - still[100:]).max() > 0.01


def with_table(model):
    """The model with a table of zeros, hashed by pairs, on its normalised embedding."""
    model.table = torch.nn.Parameter(torch.zeros(40, model.cfg.dim))

    def embed(tokens, cache):
        before = F.pad(tokens[:, :-1], (1, 0))
        x = model.tok_emb(tokens)
        return F.rms_norm(x, x.shape[-1:]) + model.table[(2039 * before + tokens) % 40]

    model.embed = embed


def test_a_table_of_pairs_is_trained_with_the_rest(tiny):
    tokens, options = toy_tokens(330), replace(SGD, hash_embed=40)
    log = run_mode(SgdTtt(20, 20, options), scorer_of(tiny), tokens)
    expected = sgd_by_hand(tiny, torch.from_numpy(tokens), 20, SGD, with_table)
    np.testing.assert_allclose(log.nll, expected, atol=2e-4)
    without = run_mode(SgdTtt(20, 20, SGD), scorer_of(tiny), tokens).nll
    agree(log.nll[:100], without[:100])  # zeros until the first chunk is trained on
    assert np.abs(log.nll[100:] - without[100:]).max() > 1e-3


def test_a_stream_of_one_chunk_is_never_trained_on(tiny):
    tokens = toy_tokens(100)
    trained = run_mode(SgdTtt(30, 10, SGD), scorer_of(tiny), tokens).nll
    assert trained.tolist() == run_mode(Windowed(30, 10), scorer_of(tiny), tokens).nll.tolist()


def test_a_window_belongs_to_the_chunk_of_its_first_target(tiny):
    """Its targets beyond the chunk are scored with it, before the chunk is trained on."""
    tokens = toy_tokens(151)
    options = replace(SGD, chunk_tokens=50)
    trained = run_mode(SgdTtt(40, 16, options), scorer_of(tiny), tokens).nll
    still = run_mode(Windowed(40, 16), scorer_of(tiny), tokens).nll
    assert trained[:56].tolist() == still[:56].tolist()
    assert (trained[56:] != still[56:]).any()


def lora_by_hand(tiny, tokens, options):
    """One document: chunk by chunk, with weights W + scale B A, and AdamW on A and B."""
    model = tiny.module()
    modules = module_shapes(tiny.spec, options.targets)
    slots = {(name, 0): shape for name, shape in modules.items()}
    adapters = Adapters(Sites(slots, options.rank, 2.0), 1, "cpu", options.seed)
    optimiser = torch.optim.AdamW(
        adapters.parameters(), options.lr, (options.beta1, options.beta2), options.eps,
        options.weight_decay,
    )  # fmt: skip

    def chunk_losses(begin, end):
        weights = dict(model.named_parameters())
        for slot in slots:
            name = f"{slot[0]}.weight"
            weights[name] = weights[name] + 2.0 * adapters.up[slot][0] @ adapters.down[slot][0]
        first = max(0, begin + options.chunk - options.window)  # a short chunk reads as a whole one
        call = functional_call(model, weights, (tokens[None, first:end],))[0]
        return F.cross_entropy(call, tokens[first + 1 : end + 1], reduction="none")[begin - first :]

    nll = []
    for begin in range(0, len(tokens) - 1, options.chunk):
        end = min(begin + options.chunk, len(tokens) - 1)
        nll.append(chunk_losses(begin, end).detach())
        if end < len(tokens) - 1:
            optimiser.zero_grad()
            chunk_losses(begin, end).mean().backward()
            optimiser.step()
    return torch.cat(nll).numpy()


def test_lora_is_the_plain_loop_over_documents(tiny):
    tokens = toy_tokens(200, document=23)
    bounds = document_bounds(tokens, BOS)
    assert len(bounds) > 5
    log = run_mode(LoraTtt(LORA), scorer_of(tiny), tokens)
    for start, stop in pairwise(bounds):
        expected = lora_by_hand(tiny, torch.from_numpy(tokens[start : stop + 1]), LORA)
        np.testing.assert_allclose(log.nll[start:stop], expected, atol=2e-4)


@pytest.mark.parametrize("changes", [{"batch_docs": 1}, {"batch_docs": 64}])
def test_documents_do_not_see_each_other(tiny, changes):
    tokens = toy_tokens(200, document=23)
    one = run_mode(LoraTtt(LORA), scorer_of(tiny), tokens).nll
    other = run_mode(LoraTtt(replace(LORA, **changes)), scorer_of(tiny), tokens).nll
    np.testing.assert_allclose(one, other, atol=5e-5)
    agree(one.mean(), other.mean())


def test_adapters_reach_every_linear_layer_and_every_call():
    config = {
        "vocab_size": 64, "num_layers": 1, "dim": 16, "num_heads": 2, "num_kv_heads": 1,
        "mlp_hidden": 32, "passes": 3,
    }  # fmt: skip
    model, described = build(config), spec(config)
    shapes = module_shapes(described, LORA_ROLES)
    assert shapes["head"] == (16, 64)
    slots = find_slots(model, shapes, "cpu")
    assert len(slots) == 1 + 3 * 6
    assert slots["blocks.0.attn.c_k", 2] == (16, 8)


def test_fresh_adapters_change_nothing_and_weights_stay(tiny):
    tokens = toy_tokens(60, document=1000)
    scorer = scorer_of(tiny)
    before = {n: p.clone() for n, p in scorer.model.named_parameters()}
    options = replace(LORA, chunk=100, window=100)
    log = run_mode(LoraTtt(options), scorer, tokens)
    agree(log.nll, run_mode(Windowed(100, 100), scorer, tokens).nll)
    run_mode(LoraTtt(LORA), scorer, tokens)
    run_mode(SgdTtt(20, 20, replace(SGD, chunk_tokens=20)), scorer, tokens)
    for name, p in scorer.model.named_parameters():
        assert torch.equal(p, before[name])


def test_phases_train_the_model_on_what_they_scored(tiny):
    tokens = toy_tokens(400, document=40)
    bounds = document_bounds(tokens, BOS)
    options = PhasedOptions(
        **{**vars(LORA), "lr": 0.0}, prefix_docs=4, phases=2, global_lr=0.02, global_window=10,
        global_chunk_tokens=20, global_batch_seqs=2,
    )  # fmt: skip
    mode = PhasedTtt(options)
    assert mode.boundaries(len(bounds) - 1) == [2, 4]
    assert mode.boundaries(4) == [2]
    assert mode.boundaries(2) == []
    trained = run_mode(mode, scorer_of(tiny), tokens).nll
    still = run_mode(LoraTtt(replace(LORA, lr=0.0)), scorer_of(tiny), tokens).nll
    agree(trained[: bounds[2]], still[: bounds[2]])
    assert np.abs(trained[bounds[2] :] - still[bounds[2] :]).max() > 0.01
    assert trained[bounds[2] :].mean() < still[bounds[2] :].mean()  # zipfian tokens: easily learned


def suggestion(warning):
    """The option and the value that a warning says would train."""
    option, value = re.search(r"--set ttt\.(\w+)=(\d+) trains", warning).groups()
    return {option: int(value)}


PHASED = PhasedOptions(chunk=8, window=32, prefix_docs=4, phases=2, global_window=10, rank=2)


@pytest.mark.parametrize(
    ("mode", "lengths", "says"),
    [
        (SgdTtt(20, 20, SGD), [100], "nothing is trained: one chunk of 100 holds all 100 targets"),
        (LoraTtt(LORA), [7, 5], "no adapter is trained: the longest document has 7 targets"),
        (
            PhasedTtt(PHASED),
            [50] * 6,
            "not trained after 2 of 2 phases: the shortest has 100 targets",
        ),
    ],
)
def test_a_stream_too_short_to_train_on_is_said_with_what_would(tiny, mode, lengths, says):
    documents = np.cumsum([0, *lengths])
    (warning,) = mode.idle(documents)
    assert says in warning
    smaller = replace(mode, ttt=replace(mode.ttt, **suggestion(warning)))
    assert smaller.idle(documents) == []
    # What is said is what happens: the one leaves every score alone, the other does not.
    tokens = toy_tokens(int(documents[-1]) + 1, document=lengths[0])
    stream = Stream.of(tokens, documents)
    moved = {}
    for name, tried in {"as it is": mode, "smaller": smaller}.items():
        losses = []
        for m in (tried, tried.frozen()):
            log = ScoreLog(stream.targets)
            m.run(scorer_of(tiny), stream, ALONE, log)
            losses.append(log.nll)
        moved[name] = np.abs(losses[0] - losses[1]).max()
    assert moved["smaller"] > 1e-6
    if not isinstance(mode, PhasedTtt):  # its adapters are trained either way
        assert moved["as it is"] == 0


def test_no_chunk_is_suggested_where_none_would_train():
    (warning,) = SgdTtt(100, 100, SGD).idle(np.array([0, 90]))
    assert "--window 11 --set ttt.chunk_tokens=11 trains" in warning
    assert SgdTtt(11, 11, replace(SGD, chunk_tokens=11)).idle(np.array([0, 90])) == []
    (warning,) = SgdTtt(100, 100, SGD).idle(np.array([0, 1]))
    assert f"score more than {SGD.chunk_tokens}" in warning
    (warning,) = LoraTtt(LORA).idle(np.array([0, 1, 2]))
    assert "--set" not in warning
    assert SgdTtt(100, 100, SGD).idle(np.array([0, 101])) == []
    assert Windowed(100, 100).idle(np.array([0, 3])) == []
    (warning,) = PhasedTtt(PHASED).idle(np.array([0, 90]))
    assert "never trained; lower ttt.prefix_docs, now 4" in warning


def test_rounds_order_phases_then_chunks():
    stream = Stream.of(np.arange(20), np.array([0, 8, 15, 19]))
    options = PhasedOptions(chunk=3, window=3, prefix_docs=1, phases=1, global_window=2)
    assert PhasedTtt(options).rounds(stream).tolist() == (
        [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 3, 3, 3, 4]
    )


def test_batches_of_documents_are_bounded_and_alike():
    lengths = np.array([5, 100, 7, 90, 6, 3])
    assert by_length(range(6), lengths, 2, 50, 1000) == [[1, 3], [2, 4], [0, 5]]
    assert by_length(range(6), lengths, 64, 50, 100) == [[1, 3], [2, 4, 0, 5]]
    assert by_length(range(1, 3), lengths, 64, 50, 10) == [[1], [2]]


def test_the_cosine_ends_at_zero():
    assert [round(cosine(i, 3), 6) for i in range(3)] == [1.0, 0.5, 0.0]
