"""Training for the artifact: what a look says, what passes run on, what decays, and that all resumes."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train.test_trainer import Interrupted, interrupt_at, log_of, stream, weights

from golfpack.base.sizes import parse_size
from golfpack.build.trained import build_trained, built_options
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.data.shards import write_shard
from golfpack.errors import BudgetError, UsageError
from golfpack.models import FAMILIES
from golfpack.packer.format.steps import step_matrix
from golfpack.packer.format.tensors import QTensor, States
from golfpack.packer.quantize.gptq import round_feedback
from golfpack.packer.quantize.listsearch import scales_of
from golfpack.packer.recipe import Recipe, load_recipe
from golfpack.packer.state import PackState, run_passes, step_field
from golfpack.spec import ModelSpec
from golfpack.train import aiming
from golfpack.train.aim import Grid, Look, look
from golfpack.train.aiming import Aim
from golfpack.train.checkpoint import CALIBRATION
from golfpack.train.choose import FOR_AN_ARTIFACT, TrainOptions, choose
from golfpack.train.config import TrainConfig
from golfpack.train.decay import Decay
from golfpack.train.late import (
    Leave,
    compiled_weights,
    decay_by_rate,
    error_like,
    to_paths,
    to_points,
    with_errors,
)
from golfpack.train.run import Run, new_run
from golfpack.train.schedule import budget_used, decay_scale
from golfpack.train.sources import DataOptions
from golfpack.train.train import train as train_run
from golfpack.train.trainer import TrainResult, complete_options, train

SHAPE: dict[str, Any] = {"vocab_size": 32, "num_layers": 2, "dim": 48, "num_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "golf": SHAPE | {"num_kv_heads": 1, "mlp_hidden": 96},
    "gpt2": SHAPE | {"mlp_hidden": 96},
}
CONFIG = TrainConfig(
    steps=30, batch_tokens=256, seq_len=32, optimizer="adamw", lr=0.01, warmup_steps=3, log_every=4,
    save_every=5, threads=1, budget="2.5bpw", aim_from=0.5, aim_looks=3, aim_tokens=1024,
)  # fmt: skip
TOKENS = stream(4000)


def begun(name: str) -> tuple[Run, ModelSpec]:
    family = FAMILIES[name]
    spec = family.spec(complete_options(family, MODELS[name], CONFIG.seq_len))
    return new_run(family, spec, CONFIG), spec


@pytest.fixture(scope="module")
def golf() -> tuple[Run, ModelSpec, Look]:
    run, spec = begun("golf")
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    size = parse_size("4bpw", spec.numel)
    return run, spec, look(run.model, spec, TOKENS, size, 0, 0, None, count=1024, seed=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_size_that_is_predicted_at_the_end_is_that_of_the_file(
    name: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, aim_errors=0.3, rate_decay=0.1, steps=60)
    family = FAMILIES[name]
    result = train(config, MODELS[name], TOKENS, tmp_path, family=family)
    looks = [x for x in records(tmp_path) if x["type"] == "artifact"]
    assert [x["step"] for x in looks] == [30, 40, 50, 60]
    spec = family.spec(complete_options(family, MODELS[name], config.seq_len))
    model = family.build(spec.config)
    model.load_state_dict(weights(result.checkpoint), strict=False)
    state, recipe = prepared(model, spec)
    real = run_passes(recipe.round, dataclasses.replace(state, dial=looks[-1]["dial"])).size
    assert real == pytest.approx(looks[-1]["artifact_bytes"], rel=0.03)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "time"} for x in lines]


def test_errors_cost_what_rounding_with_feedback_costs(golf: tuple[Run, ModelSpec, Look]) -> None:
    run, spec, seen = golf
    state, _ = prepared(copy.deepcopy(run.model), spec)
    generator = torch.Generator().manual_seed(0)
    for name, grid in seen.grids.items():
        known, steps = state.sensitivity[name], step_field(state, name, seen.dial)
        w = state.matrix(name)
        assert known.factor is not None
        codes = round_feedback(w, steps, known.factor, None, known.row_factor)
        rounded = known.kl(codes * step_matrix(steps, w.shape) - w)
        like = torch.from_numpy(w)
        drawn = [known.kl(error_like(grid, like, generator).numpy()) for _ in range(20)]
        assert rounded == pytest.approx(np.mean(drawn), rel=0.25), name


def prepared(model: torch.nn.Module, spec: ModelSpec) -> tuple[PackState, Recipe]:
    """As `build` has it, calibrated on the tokens that looks at this model take."""
    starts = np.linspace(0, TOKENS.size - 32, 36).astype(np.int64)
    order = np.random.default_rng(0).permutation(36)[4:]
    rows = np.stack([TOKENS[s : s + 32] for s in starts[order]]).astype(np.int64)
    stats = calibrate(model, spec, CalibTokens(rows, "t"), gradients=True, seed=0, threads=1)
    recipe = load_recipe("rd")
    arrays = {n: p.detach().numpy() for n, p in model.named_parameters()}
    return run_passes(recipe.prepare, PackState(spec, arrays, stats)), recipe


@pytest.mark.parametrize(
    ("leave", "a_step"),
    [(with_errors(1.0, torch.Generator().manual_seed(3)), 0), (to_points, 1), (to_paths, 2)],
)
def test_weights_are_as_they_were_after_a_pass(
    golf: tuple[Run, ModelSpec, Look], leave: Leave, a_step: int
) -> None:
    run, _, seen = golf
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    with compiled_weights(run.model, seen, leave):
        for name, p in run.model.named_parameters():
            assert torch.equal(p, before[name]) == (name not in seen.grids)
            if a_step and name in seen.grids:
                in_parts = a_step * p / (seen.grids[name].row * seen.grids[name].col)
                assert torch.allclose(in_parts, in_parts.round(), atol=1e-3)
    assert all(torch.equal(p, before[n]) for n, p in run.model.named_parameters())


def test_paths_are_what_the_compilers_codes_stand_for(golf: tuple[Run, ModelSpec, Look]) -> None:
    """A search without feedback and without a price on bits finds points as near."""
    run, spec, seen = golf
    state, _ = prepared(copy.deepcopy(run.model), spec)
    finer = 0
    for name, grid in seen.grids.items():
        known, steps = state.sensitivity[name], step_field(state, name, seen.dial)
        assert known.factor is not None
        assert steps.col is not None
        # No feedback, and an error of a step costs the same in all columns.
        diagonal = np.diag(steps.col[known.factor.order])
        alone = dataclasses.replace(known.factor, upper=diagonal)
        w = state.matrix(name)
        states = States(scales_of(w, steps))
        codes = round_feedback(w, steps, alone, None, None, 0.0, 16, states)
        searched = QTensor(codes, steps, states=states)
        (path,) = to_paths([(torch.from_numpy(w), grid)])
        errors = [
            np.square((found - w) / step_matrix(steps, w.shape)).mean()
            for found in (path.numpy(), searched.dequantize())
        ]
        # A search decides every 64 columns.
        assert errors[0] * (1 - 1e-6) <= errors[1] <= 1.02 * errors[0], name
        assert grid.fine is not None
        finer += int(grid.fine.sum())
    assert finer > 0


def test_rate_decay_lowers_bits_and_never_crosses_zero() -> None:
    model = torch.nn.Linear(64, 64, bias=False)
    before = model.weight.detach().clone()
    step = torch.full((64, 1), 0.02)
    grid = Grid(step, torch.ones(1, 64), torch.ones(64, 1), torch.ones(1, 64))
    seen = Look(0, 0, 1.0, 0, 0.0, 1.0, 0, 0.0, {"weight": grid})
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    decay_by_rate(model, seen, [optimiser], 0.2)
    after = model.weight.detach()
    assert bool((after * before >= 0).all())
    moved = before.abs() - after.abs()
    assert bool((moved >= 0).all())
    # All weights of one scale move alike, by a tenth of it less what their low rate leaves out.
    scale, in_steps = before.abs().mean(), before.abs().mean() / 0.02
    wanted = 0.1 * scale * in_steps / (in_steps + 0.3)
    assert moved[before.abs() > 0.05].mean() == pytest.approx(float(wanted), rel=0.05)


def test_cautious_decay_spares_weights_that_grow() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, -1.0, -1.0]))
    optimiser = torch.optim.SGD([{"params": [p], "lr": 0.1, "weight_decay": 0.5}])
    p.grad = torch.tensor([1.0, -1.0, 1.0, -1.0])
    config = dataclasses.replace(CONFIG, cautious_decay=True)
    decay = Decay([optimiser], config, 2.0)
    optimiser.step()
    decay.apply()
    shrunk = 0.1 * 0.5 * 2.0
    wanted = torch.tensor([0.9 - shrunk, 1.1, -1.1, -0.9 + shrunk])
    assert torch.allclose(p.detach(), wanted)
    assert decay_scale(dataclasses.replace(CONFIG, decay_final=3.0), 0.8) == pytest.approx(2.0)


OPTIONS: dict[str, dict[str, Any]] = {
    "errors": {"aim_errors": 0.5, "ema_decay": 0.8},
    "rounding": {"aim_rounding": True, "rate_decay": 0.5, "swa_start": 0.7, "swa_every": 2},
    "paths": {"aim_trellis": True},
    "decay": {"cautious_decay": True, "decay_final": 0.0, "optimizer": "muon"},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k == "rounding" else [pytest.mark.slow]) for k in OPTIONS],
)
def test_a_resumed_run_equals_a_straight_one(kind: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, **OPTIONS[kind], steps=20, aim_looks=1)
    straight, other = tmp_path / "straight", tmp_path / "other"
    train(config, MODELS["golf"], TOKENS, straight)
    for stop in (8, 13, 18):
        with pytest.raises(Interrupted):
            train(
                config, MODELS["golf"], TOKENS, other, progress=interrupt_at(stop),
                resume=(other / "train.jsonl").exists(),
            )  # fmt: skip
    train(config, MODELS["golf"], TOKENS, other, resume=True)
    expected, found = (weights(f / "final_model.pt") for f in (straight, other))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert log_of(straight) == log_of(other)
    kept = [[x for x in records(f) if x["type"] == "artifact"] for f in (straight, other)]
    assert len(kept[0]) == 2
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budget": "", "aim_errors": 0.5}, "size nobody said"),
        ({"budget": "much"}, "'much' is not a size"),
        ({"aim_errors": 0.5, "aim_rounding": True}, "each stand for"),
        ({"aim_rounding": True, "aim_trellis": True}, "each stand for"),
        ({"budget": "", "aim_trellis": True}, "size nobody said"),
        ({"aim_looks": 0}, "aim_looks is 0"),
    ],
)
def test_unusable_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        dataclasses.replace(CONFIG, **settings)


def test_a_budget_out_of_reach_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, budget="0.2bpw")
    with pytest.raises(BudgetError, match=r"0\.200 bits per parameter") as caught:
        train(config, MODELS["golf"], TOKENS, tmp_path / "run")
    assert str(caught.value.hint).endswith("golfpack size finds the best")
    assert not (tmp_path / "run").exists()


def test_a_run_for_a_size_ends_with_the_artifact(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.bin", TOKENS)
    settings = [f"model.{k}={v}" for k, v in MODELS["golf"].items()]
    settings += ["train.seq_len=32", "train.batch_tokens=128", "train.aim_tokens=512"]
    options = TrainOptions(
        tmp_path / "run", data=DataOptions(tokens=str(tmp_path / "train.bin")), steps=8, seed=3,
        budget="3bpw", settings=tuple(settings),
    )  # fmt: skip
    config = choose(options).config
    assert config.budget == "3bpw"
    assert {**vars(config), **FOR_AN_ARTIFACT} == vars(config)
    result = train_run(options)
    report = build_trained(result, options)
    artifact = tmp_path / "run" / "model.golf"
    budget = parse_size("3bpw", report.parameters)
    assert 0.9 * budget < artifact.stat().st_size <= budget
    assert report.calibration is not None
    assert report.calibration["source"] == str(tmp_path / "run" / "calibration.bin")
    assert (report.seed, report.artifact) == (3, str(artifact))
    assert build_trained(train_run(dataclasses.replace(options, resume=True)), options)


@pytest.mark.parametrize(("kl", "extended"), [(0.2, False), (0.02, True)])
def test_the_time_of_the_codes_goes_to_what_gains_more(
    golf: tuple[Run, ModelSpec, Look], monkeypatch: pytest.MonkeyPatch, kl: float, extended: bool
) -> None:
    """Losses fall by 0.2 nats from 100 steps to 200: a quarter more steps are worth 0.052."""
    _, spec, seen = golf
    config = dataclasses.replace(CONFIG, steps=None, minutes=1.0, codes_share=0.2, aim_from=0.6)
    run = new_run(FAMILIES["golf"], spec, config)
    aim = Aim(config, spec, TOKENS)
    found = dataclasses.replace(seen, kl=kl)
    monkeypatch.setattr(aiming, "look", lambda *_, **__: found)
    for step in range(50, 200, 10):
        run.step, run.seconds = step, 0.15 * step
        aim.remember(run, run.used(config))
        # Before half the time of the look they fall by more.
        loss = 3.0 - 0.2 * np.log2(step / 100) + (0.5 if step < 100 else 0.0)
        run.unread.append((step - 1, torch.tensor([loss, 1.0])))
    run.step, run.seconds = 200, 30.0
    assert aim.due(run, run.used(config))
    record = aim.look(run, run.used(config))
    assert record["codes_gain"] == pytest.approx(aiming.CODES_GAIN * kl)
    assert record["steps_gain"] == pytest.approx(0.8 * 0.2 * np.log2(1.25), rel=1e-4)
    assert run.extended_at == (30.0 if extended else None)
    again = new_run(FAMILIES["golf"], spec, config)
    again.restore(run.state())
    assert (again.trend, again.extended_at) == (run.trend, run.extended_at)
    # What is decided stays decided.
    monkeypatch.setattr(aiming, "look", lambda *_, **__: dataclasses.replace(found, kl=0.2 - kl))
    assert "codes_gain" not in aim.look(again, 0.9)
    assert again.extended_at == run.extended_at


def test_codes_whose_time_steps_took_are_not_trained(tmp_path: Path) -> None:
    write_shard(tmp_path / CALIBRATION, TOKENS)
    result = TrainResult(
        9, 1.0, 3.0, None, tmp_path / "final_model.pt", budget="2bpw", tokens=10_000,
        parameters=5_000,
    )  # fmt: skip
    built = built_options(result, TrainOptions(tmp_path))
    assert (built.goal.refine, built.goal.refine_on) == (500, "labels")
    built = built_options(dataclasses.replace(result, codes=False), TrainOptions(tmp_path))
    assert (built.goal.refine, built.goal.refine_on) == (0, "kl")


def test_a_run_of_before_these_settings_goes_on(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=8, budget="")
    train(config, MODELS["golf"], TOKENS, tmp_path)
    last = weights(tmp_path / "last.pt")
    assert "look" not in last
    for name in ("budget", "aim_errors", "cautious_decay", "decay_final"):
        del last["settings"][name]
    del last["best_val"]
    torch.save(last, tmp_path / "last.pt")
    assert train(config, MODELS["golf"], TOKENS, tmp_path, resume=True).steps == 8


def test_minutes_are_for_steps_and_codes() -> None:
    def of_steps(minutes: float | None = 10.0, **options: Any) -> float:
        """Minutes after which the run ends, as far as nobody says otherwise."""
        config = choose(TrainOptions(minutes=minutes, **options)).config
        assert config.minutes is not None
        return next(t / 60 for t in range(60 * 20) if budget_used(config, 1, float(t)) == 1.0)

    assert of_steps() == 10.0
    assert of_steps(budget="2bpw") == 9.0
    assert of_steps(None, budget="2bpw", settings=("train.minutes=5",)) == 4.5
    assert of_steps(budget="2bpw", settings=("train.codes_share=0",)) == 10.0
