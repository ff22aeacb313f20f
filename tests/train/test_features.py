"""Training features: each against its formula, and all of them through kills, parts and processes."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train.test_trainer import HELD_OUT, TOKENS, Interrupted, interrupt_at, log_of

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import GOLF
from golfpack.models.ranks import Group
from golfpack.models.training import FirstAttention, Readout
from golfpack.train.batches import Batches
from golfpack.train.config import TrainConfig
from golfpack.train.features import curriculum, heads, meta_ttt, qk_init, weights
from golfpack.train.log import Stopwatch
from golfpack.train.loss import validation_loss
from golfpack.train.run import Run, new_run
from golfpack.train.step import _add_gradients
from golfpack.train.trainer import complete_options, train

SHAPE: dict[str, Any] = {
    "vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 1,
    "mlp_hidden": 32, "bigram_size": 20, "bigram_dim": 8, "layer_order": "0-1,0-1",
}  # fmt: skip
CONFIG = TrainConfig(
    steps=20, batch_tokens=128, seq_len=16, warmup_steps=2, log_every=1, save_every=5, threads=1
)
WEIGHTED: dict[str, Any] = {
    "word_start_weight": 1.5, "word_start_from": 0.5, "word_starts": "3,7-12", "ignore_id": 5,
}  # fmt: skip
ALL: dict[str, Any] = WEIGHTED | {
    "focal_gamma": 1.5, "mtp_heads": 2, "mtp_weight": 0.3, "jepa_weight": 0.2, "meta_weight": 0.5,
    "meta_rate": 0.05, "meta_every": 2, "meta_freeze": 1, "qk_init_tokens": 1000,
    "curriculum_steps": 9, "loops_from": 0.4, "momentum_start": 0.8, "momentum_cycle": 7,
}  # fmt: skip
ROWS = TOKENS[: 8 * 17].reshape(8, 17).astype(np.int64)


def changed(**changes: Any) -> TrainConfig:
    return dataclasses.replace(CONFIG, **changes)


def fresh(config: TrainConfig, scale: float = 0.1) -> Run:
    """A run whose weights are nowhere zero, in float64."""
    run = new_run(GOLF, GOLF.spec(complete_options(GOLF, SHAPE, 16)), config, TOKENS)
    generator = torch.Generator().manual_seed(1)
    run.model.double()
    if run.objective.heads is not None:
        run.objective.heads.double()
    with torch.no_grad():
        for parameter in run.objective.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise)
    return run


def gradients(run: Run, config: TrainConfig, parts: int = 1, ranks: int = 1) -> list[torch.Tensor]:
    """Of every parameter, by a step in parts that processes share: their sums add up here."""
    for rank in range(ranks):
        group = Apart(rank, ranks)
        _add_gradients(run, config, np.split(ROWS, parts), 0.3, Stopwatch("cpu"), group)
    found = [p.grad.clone() for p in run.objective.parameters() if p.grad is not None]
    assert len(found) == len(run.objective.parameters())
    for parameter in run.objective.parameters():
        parameter.grad = None
    return found


class Apart(Group):
    """A process whose sums nobody else joins: gradients of several stay in the same parameters."""

    def sum_gradients(self, parameters: Any) -> None: ...

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def nearly(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    scale = max(float(t.abs().max()) for t in expected)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) < 1e-6 * scale


def test_weights_of_targets_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 32, generator=generator, dtype=torch.float64)
    targets = torch.randint(32, (4, 6), generator=generator)
    p = torch.softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
    w = torch.where((targets == 3) | ((targets >= 7) & (targets <= 12)), 1.5, 1.0).double()
    expected = (w * (1 - p) ** 2 * -p.log())[targets != 5].sum()
    table = torch.where(torch.isin(torch.arange(32), torch.tensor([3, *range(7, 13)])), 1.5, 1.0)
    found = weights.weighted_sum(logits, targets, table.double(), 2.0, 0.0, 5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    plain = weights.weighted_sum(logits, targets, None, 0.0, 0.1, 5)
    known = F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        label_smoothing=0.1,
        ignore_index=5,
        reduction="sum",
    )
    assert plain.item() == pytest.approx(known.item(), rel=1e-12)


def test_a_weighted_loss_is_the_weighted_mean_of_its_batch() -> None:
    """As `F.cross_entropy` has it, which also divides by the sum of its targets' weights."""
    config = changed(**WEIGHTED)  # from 0.5 to 1.5: 1 in the middle, 1.25 after three quarters
    run = fresh(config)
    main, everything = run.objective.batch([ROWS], 3, 0.5).loss(run.model, 0)
    assert main is everything
    table = torch.ones(32, dtype=torch.float64)
    logits = run.model(torch.from_numpy(ROWS[:, :-1])).double()
    targets = torch.from_numpy(ROWS[:, 1:]).flatten()
    known = F.cross_entropy(logits.flatten(0, 1), targets, weight=table, ignore_index=5)
    assert main.item() == pytest.approx(known.item(), rel=1e-6)
    late, _ = run.objective.batch([ROWS], 3, 0.75).loss(run.model, 0)
    table[[3, *range(7, 13)]] = 1.25
    known = F.cross_entropy(logits.flatten(0, 1), targets, weight=table, ignore_index=5)
    assert late.item() == pytest.approx(known.item(), rel=1e-6)
    assert abs(late.item() - main.item()) > 1e-6


def test_parts_and_processes_have_the_gradient_of_the_batch() -> None:
    config = changed(**ALL | {"meta_weight": 0.0})
    run = fresh(config)
    whole = gradients(run, config)
    nearly(gradients(run, config, parts=4), whole)
    nearly(gradients(run, config, parts=4, ranks=2), whole)
    with_meta = changed(**ALL)
    run = fresh(with_meta)  # its inner steps are each part's own: parts matter, processes do not
    nearly(gradients(run, with_meta, 4, ranks=4), gradients(run, with_meta, 4))


def test_heads_predict_the_tokens_behind_the_next() -> None:
    """Hidden states tell the token, heads count on by two and by three: right only if shifted so."""
    rows = torch.arange(10)[None, :].repeat(2, 1) + torch.tensor([[0], [7]])
    config = changed(mtp_heads=2)
    made = heads.Heads(config, 32, 32, 4)
    for k, head in enumerate(made.mtp, start=1):
        head.weight.data = 50.0 * torch.eye(32).roll(1 + k, dims=0)
    readout = Readout(*[lambda module, x: x] * 4)
    hidden = F.one_hot(rows[:, :-1], 32).float()
    sums = heads.mtp_sums(made, readout, made, hidden, rows, -100)
    assert [s.item() < 1e-3 for s in sums] == [True, True]
    assert heads.mtp_sums(made, readout, made, hidden.roll(1, 1), rows, -100)[0].item() > 100
    run = fresh(changed(mtp_heads=2))
    counts = run.objective.batch([rows.numpy()], 0, 0.0).whole
    assert counts.tolist() == [18, 18, 10, 16, 14]


def test_jepa_predicts_the_next_embedding() -> None:
    config = changed(jepa_weight=0.2, ignore_id=5)
    run = fresh(config)
    rows = torch.from_numpy(ROWS)
    found, readout = run.objective.heads, run.objective.readout
    assert found is not None
    assert found.jepa is not None
    assert readout is not None
    hidden = readout.hidden(run.model, rows[:, :-1])
    aims = readout.embed(run.model, rows)[:, 1:]
    errors = (hidden @ found.jepa.weight.T - aims).square().mean(-1)[rows[:, 1:] != 5].mean()
    main, everything = run.objective.batch([ROWS], 0, 0.0).loss(run.forward or run.model, 0)
    assert (everything - main).item() == pytest.approx(0.2 * errors.item(), rel=1e-5)
    # Embeddings as targets get no gradient: a constant shift of all of them would else be free.
    table = run.model.get_parameter("tok_emb.weight")
    total = heads.jepa_sum(found, readout, run.model, hidden.detach(), rows, 5)
    assert torch.autograd.grad(total, table, allow_unused=True)[0] is None


def test_meta_ttt_is_first_order_maml() -> None:
    """Against a second model that holds the adapted weights, in float64."""
    config = changed(meta_weight=0.5, meta_rate=0.1, meta_freeze=1, ignore_id=5)
    rows = torch.from_numpy(ROWS)
    without = changed(ignore_id=5)
    plain = gradients(fresh(without), without)
    run = fresh(config)
    names = meta_ttt.adapted_names(GOLF.spec(complete_options(GOLF, SHAPE, 16)), 1)
    assert {n.split(".")[1] for n in names} == {"1"}
    assert len(names) == 6

    def loss(model: Any, piece: torch.Tensor) -> torch.Tensor:
        logits = model(piece[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten(), ignore_index=5)

    adapted = copy.deepcopy(run.model)
    own = dict(adapted.named_parameters())
    steps = torch.autograd.grad(loss(adapted, rows[:, :9]), [own[n] for n in names])
    with torch.no_grad():
        for name, step in zip(names, steps, strict=True):
            own[name].sub_(0.1 * step)
    (0.5 * loss(adapted, rows[:, 8:])).backward()
    expected = [a + b.grad for a, b in zip(plain, adapted.parameters(), strict=True)]  # type: ignore[operator]
    found = gradients(run, config)
    nearly(found, expected)
    assert max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True)) > 1e-3
    # Every fourth step, and none once the rate has fallen below half of its peak.
    due = [s for s in range(20) if meta_ttt.is_meta_step(config, s, s / 20)]
    assert due == [0, 4, 8, 12]


def test_attention_begins_from_neighbours() -> None:
    """With as many channels as tokens, scores are in proportion to C; groups share components."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))[0]
    tokens = np.random.default_rng(0).integers(16, size=3000).astype(np.uint16)
    tokens[1::2] = tokens[::2] ^ 1  # each token beside its partner
    for kv_heads, heads_ in ((1, 1), (2, 4)):
        width = 16 // heads_
        q = torch.nn.Parameter(torch.randn(heads_ * width, 16, generator=generator).double())
        k = torch.nn.Parameter(torch.randn(kv_heads * width, 16, generator=generator).double())
        norms = q.norm().item(), k.norm().item()
        qk_init.set_queries_and_keys(FirstAttention(inputs, q, k, heads_, kv_heads), tokens)
        assert (q.norm().item(), k.norm().item()) == pytest.approx(norms)
        queries = q.view(kv_heads, heads_ // kv_heads, width, 16)
        keys = k.view(kv_heads, 1, width, 16).expand_as(queries)
        scores = (inputs @ queries.mT @ keys @ inputs.T).mean(1).sum(0).detach()
        u, s, vt = torch.linalg.svd(qk_init.neighbours(tokens, 16))
        rank = kv_heads * width
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert torch.allclose(scores / scores.norm(), best / best.norm(), atol=1e-9)
    c = qk_init.neighbours(tokens, 16)
    assert [int(i) for i in c.argmax(1)] == [i ^ 1 for i in range(16)]
    assert float(c.sum(0).abs().max()) < 1e-9


def test_easy_sequences_come_first() -> None:
    """Rare tokens make the second half of a stream hard: they come late, then as without."""
    rng = np.random.default_rng(0)
    tokens = np.concatenate((rng.integers(4, size=1600), rng.integers(4, 250, size=1600)))
    tokens = tokens.astype(np.uint16)
    counts = np.bincount(tokens) / tokens.size
    rarity = curriculum.rarity(tokens, 16)
    assert rarity[7] == pytest.approx(-np.log(counts[tokens[112:128]]).mean())
    plain = Batches(tokens, 16, 64, 3)
    taught = Batches(tokens, 16, 64, 3, curriculum_steps=20)
    hard = [float((taught.at(step) >= 4).mean()) for step in range(20)]
    assert max(hard[:9]) < 0.02  # each row has one token of the next sequence
    assert hard[19] > 0.35
    assert hard[12] < hard[19]
    assert np.array_equal(taught.at(20), plain.at(20))
    assert np.array_equal(taught.at(5), Batches(tokens, 16, 64, 3, curriculum_steps=20).at(5))
    assert np.array_equal(taught.at(5, 8), taught.at(5)[:, :9])


def test_loops_begin_late(tmp_path: Path) -> None:
    """Off, it is the model of the plain order, averages too; the final one loops."""
    run = fresh(changed(loops_from=0.4, ema_decay=0.5))
    plain = GOLF.build(GOLF.spec(complete_options(GOLF, SHAPE | {"layer_order": ""}, 16)).config)
    own = dict(run.model.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.double().named_parameters():
            parameter.copy_(own[name][: parameter.shape[0]] if parameter.ndim else own[name])
    ids = torch.from_numpy(ROWS[:, :-1])
    looping = run.model(ids)
    for used, expected in ((0.39, plain(ids)), (0.4, looping)):
        _add_gradients(run, CONFIG_LOOPS, [ROWS], used, Stopwatch("cpu"), Group())
        assert torch.equal(run.model(ids), expected)
        assert run.average is not None
        assert len(run.average.module.order) == (2 if used < 0.4 else 4)  # type: ignore[arg-type]
    result = train(changed(loops_from=0.4), SHAPE, TOKENS, tmp_path, val_tokens=HELD_OUT)
    loaded = load_checkpoint(result.checkpoint).module()
    assert validation_loss(loaded, HELD_OUT, 16, 8) == pytest.approx(result.val_loss, rel=1e-5)
    with_rows = SHAPE | {"loop_embeds": 2}
    run = new_run(GOLF, GOLF.spec(complete_options(GOLF, with_rows, 16)), CONFIG_LOOPS)
    _add_gradients(run, CONFIG_LOOPS, [ROWS], 0.0, Stopwatch("cpu"), Group())
    unused = run.model.get_parameter("loop_embed.weight").grad
    assert unused is not None  # missing on one process and zero on several would be two runs
    assert not unused.any()


CONFIG_LOOPS = changed(loops_from=0.4, ema_decay=0.5)


def test_a_run_with_all_features_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = changed(**ALL, accumulate=2, ema_decay=0.9, val_every=10)
    straight = train(config, SHAPE, TOKENS, tmp_path / "a", val_tokens=HELD_OUT)
    with pytest.raises(Interrupted):
        train(config, SHAPE, TOKENS, tmp_path / "b", val_tokens=HELD_OUT, progress=interrupt_at(13))
    train(config, SHAPE, TOKENS, tmp_path / "b", val_tokens=HELD_OUT, resume=True)
    one, other = ((tmp_path / d / "final_model.pt").read_bytes() for d in "ab")
    assert one == other
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")
    a, b = (torch.load(tmp_path / d / "last.pt", weights_only=True) for d in "ab")
    assert set(a["heads"]) == {"mtp.0.weight", "mtp.1.weight", "jepa.weight"}
    assert all(torch.equal(t, b["heads"][name]) and t.any() for name, t in a["heads"].items())
    for mine, theirs in zip(a["optimisers"], b["optimisers"], strict=True):
        for index, state in mine["state"].items():
            assert all(torch.equal(t, theirs["state"][index][k]) for k, t in state.items())
    loaded = load_checkpoint(
        straight.checkpoint
    )  # its tensors are the model's, no more and no less
    plain = validation_loss(loaded.module(), HELD_OUT, 16, 4, ignore_id=5)
    assert straight.val_loss == pytest.approx(plain, rel=1e-5)
    changed_weight = dataclasses.replace(config, mtp_weight=0.4)
    with pytest.raises(UsageError, match=r"mtp_weight = 0\.3, not 0\.4"):
        train(changed_weight, SHAPE, TOKENS, tmp_path / "a", resume=True)


def test_word_starts_come_from_the_tokenizer(tmp_path: Path) -> None:
    from golfpack.train.choose import TrainOptions
    from golfpack.train.sources import DataOptions
    from golfpack.train.train import train as run

    (tmp_path / "text.txt").write_text("the cat sat on the mat and saw a dog\n" * 400)
    settings = [
        "train.word_start_weight=1.5", "train.seq_len=16", "train.batch_tokens=64", "model.dim=16",
        "model.num_layers=1", "model.num_heads=2", "model.num_kv_heads=1", "model.mlp_hidden=16",
        "model.bigram_size=20", "model.bigram_dim=8", "model.word_boost=true",
    ]  # fmt: skip
    data = DataOptions(text=(tmp_path / "text.txt",), train_vocab=280)
    result = run(TrainOptions(tmp_path / "run", data=data, steps=2, settings=tuple(settings)))
    meta = json.loads((tmp_path / "run" / "train.jsonl").read_text().splitlines()[0])
    known = meta["config"]["word_starts"]
    assert known.startswith("b85:")
    assert load_checkpoint(result.checkpoint).config["word_starts"] == known


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gpt2", {"mtp_heads": 1}, "gpt2 family .* mtp_heads is set"),
        ("llama", {"jepa_weight": 0.1}, "llama family .* jepa_weight is set"),
        ("alph", {"qk_init_tokens": 9}, "alph family .* qk_init_tokens is 9"),
        ("bottleneck", {"loops_from": 0.5}, "bottleneck model repeats no block"),
        ("golf", {"loops_from": 0.5}, "golf model repeats no block"),
        ("golf", {"word_start_weight": 2.0}, "nobody told"),
        ("golf", {"word_start_weight": 2.0, "word_starts": "none"}, "none do"),
        ("golf", {"word_start_weight": 2.0, "word_starts": "40"}, "names token 40"),
        ("golf", {"meta_weight": 0.5, "meta_freeze": 2}, "leaves meta-TTT no block's matrices"),
        ("golf", {"focal_gamma": 1.0, "label_smoothing": 0.1}, "both change the loss"),
        ("golf", {"meta_weight": 0.5, "grad_checkpoint": True}, "with others"),
        ("golf", {"mtp_heads": 16}, "sequences of 16 tokens are too short"),
    ],
)
def test_what_a_feature_lacks_is_named(family: str, changes: dict[str, Any], named: str) -> None:
    found = FAMILIES[family]
    shape = {"vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 32}
    if family in ("golf", "llama"):
        shape["num_kv_heads"] = 1
    if family == "bottleneck":
        shape["attn_dim"] = 16
    with pytest.raises(UsageError, match=named) as caught:
        new_run(found, found.spec(complete_options(found, shape, 16)), changed(**changes), TOKENS)
    assert caught.value.hint


@pytest.mark.parametrize("family", ["gpt2", "bottleneck"])
def test_other_families_have_what_needs_no_help(family: str, tmp_path: Path) -> None:
    """Weights of targets, meta-TTT and the curriculum know no family."""
    found = FAMILIES[family]
    shape = {"vocab_size": 32, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 32}
    shape |= {"attn_dim": 8, "sem_dim": 4, "geo_dim": 8} if family == "bottleneck" else {}
    config = changed(
        optimizer="adamw", lr=0.01, dropout=0.1, focal_gamma=1.0, meta_weight=0.5, curriculum_steps=5,
        word_start_weight=2.0, word_starts="3-5", steps=6,
    )  # fmt: skip
    result = train(config, shape, TOKENS, tmp_path, family=found, val_tokens=HELD_OUT)
    assert result.val_loss is not None
    assert result.val_loss < 3.4
