"""`plan` before anything is built: its tables and its file, what it refuses, and that builds agree."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import asked
from typer.testing import CliRunner

from golfpack.build import backend as backend_module
from golfpack.build.plan import DEFAULT_BUDGETS, plan
from golfpack.build.planfile import read_plan
from golfpack.build.run import build
from golfpack.cli import app
from golfpack.errors import BudgetError, UsageError
from golfpack.packer.format.loader import load
from golfpack.packer.recipe import recipe_names


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """Calibration of the tiny model on its shard; nothing to write."""
    return asked(tiny_path, calib=str(tiny_shard), calib_tokens=2048)


@pytest.fixture
def planned(options, tmp_path):
    """planned(recipe, budget) -> options of a build that replays a plan file; edit(data) changes it."""

    def make(recipe, *budgets, edit=None, **changes):
        path = tmp_path / "plan.json"
        plan(options.changed(recipe=recipe, output=path, **changes), budgets)
        data = json.loads(path.read_text())
        if edit is not None:
            edit(data)
            path.write_text(json.dumps(data))
        return options.changed(plan=read_plan(path), dry_run=True)

    return make


def test_a_plan_is_what_the_builds_then_find(options, tmp_path):
    report = plan(options, ["40kB", "15kB", "25kB"])
    assert [r.budget_bytes for r in report.rows] == [15_000, 25_000, 40_000]
    assert not list(tmp_path.iterdir())
    assert report.calibration is not None
    assert (report.calibration["tokens"], report.recipe) == (2048, "rd")
    assert report.tensors == []
    assert report.kl_ratio > 0
    for row in report.rows:
        built = build(options.changed(budget=str(row.budget_bytes), dry_run=True))
        assert row.artifact_bytes == pytest.approx(built.artifact_bytes, rel=0.01)
        assert row.bits_per_weight == pytest.approx(built.bits_per_weight, rel=0.01)
        assert built.measured_kl is not None
        assert 1 / 2 < row.predicted_kl / built.measured_kl < 2
        assert row.predicted_bpb is None
    losses = [r.predicted_kl for r in report.rows]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("recipe", "close"),
    [("rd", 0.1), pytest.param("sdclip-brotli", 0.25, marks=pytest.mark.slow)],
)
def test_a_plan_refuses_what_the_build_refuses(options, recipe, close):
    options = options.changed(recipe=recipe, calib_tokens=512, dry_run=True, output=None)
    with pytest.raises(BudgetError) as refused:
        build(options.changed(budget="1kB"))
    least = 1000 + refused.value.shortfall
    with pytest.raises(BudgetError) as e:
        plan(options, [str(least - 1)])
    assert e.value.shortfall == 1
    assert f"{least:,} bytes" in e.value.message
    report = plan(options, [str(least), str(least + 1500), str(least + 4000)])
    assert report.rows[0].artifact_bytes == least
    # What is predicted is the search's dial; rounding in sequence goes on from there.
    options = options.changed(settings=("search.in_sequence=false",))
    for row in report.rows:
        built = build(options.changed(budget=str(row.budget_bytes)))
        assert row.artifact_bytes <= row.budget_bytes
        assert row.dial == pytest.approx(built.dial, rel=close)


def test_without_a_budget_the_plan_spans_where_people_build(options):
    report = plan(options, [])
    assert all(r.artifact_bytes <= r.budget_bytes for r in report.rows)
    assert [r.budget_bytes for r in report.rows] == [
        int(float(b.removesuffix("bpw")) * report.parameters) // 8 for b in DEFAULT_BUDGETS
    ]


def test_code_counts_towards_every_budget(options, tmp_path):
    code = tmp_path / "run.py"
    code.write_bytes(b"#" * 5_000)
    alone, beside = plan(options, ["15kB"]), plan(options.changed(code=(code,)), ["20kB"])
    assert beside.rows[0].budget_bytes == 20_000
    assert replace(beside.rows[0], budget_bytes=15_000) == alone.rows[0]


@pytest.mark.parametrize(
    ("changes", "budgets", "says"),
    [
        ({"recipe": "mixed-int5-int6"}, [], "by the budget"),
        ({"output": Path("plan.json")}, ["15kB", "20kB"], "one budget"),
        ({"output": Path("none/plan.json")}, ["15kB"], "cannot write"),
        ({}, ["15kB", "16potato"], "16potato"),
        ({"recipe": "rdd"}, [], "unknown recipe"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_calibration(
    options, monkeypatch, changes, budgets, says
):
    monkeypatch.setattr(backend_module, "calibrate", lambda *a, **k: pytest.fail("too late"))
    with pytest.raises(UsageError, match=says):
        plan(options.changed(**changes), budgets)


@pytest.mark.parametrize(
    ("recipe", "budget"), [("rd", "20kB"), ("sdclip-brotli", "20kB"), ("int5-mlp", "45kB")]
)
def test_one_budget_is_planned_tensor_by_tensor(options, recipe, budget):
    options = options.changed(recipe=recipe)
    report = plan(options, [budget])
    built = build(options.changed(budget=budget, dry_run=True))
    row = report.rows[0]
    assert row.artifact_bytes == pytest.approx(built.artifact_bytes, rel=0.02)
    assert [t.name for t in report.tensors] == [t.name for t in built.tensors]
    total = sum(t.bytes for t in report.tensors)
    assert total == pytest.approx(row.artifact_bytes, rel=0.03)
    for planned, made in zip(report.tensors, built.tensors, strict=True):
        if made.bytes > 1000:
            assert planned.bytes == pytest.approx(made.bytes, rel=0.25), planned.name
    kls = [t.predicted_kl for t in report.tensors]
    if recipe == "rd":
        assert sum(kls) == pytest.approx(row.predicted_kl)
    else:
        assert (row.predicted_kl, report.kl_ratio, set(kls)) == (None, None, {None})


def test_without_a_budget_a_classic_recipe_is_planned_as_it_is_written(options):
    options = options.changed(recipe="int8-zlib")
    report = plan(options, [])
    assert report.budget_bytes is None
    assert [(r.budget_bytes, r.dial) for r in report.rows] == [(None, 1.0)]
    built = build(options.changed(budget="70kB", dry_run=True))
    assert built.dial <= 1
    assert report.rows[0].artifact_bytes == pytest.approx(built.artifact_bytes, abs=2)


def test_a_budget_that_holds_everything_is_planned_so(options, tiny):
    report = plan(options, ["1MB"])
    assert {t.label for t in report.tensors} == {"exact"}
    assert (
        sum(t.bytes for t in report.tensors) == 4 * tiny.spec.numel == report.rows[0].artifact_bytes
    )
    with pytest.raises(BudgetError):
        plan(options.changed(recipe="int5-mlp"), ["20kB"])


QUICK = ("rd", "sdclip-brotli", "sdclip-lqer-pergroup", "int8-zlib")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in recipe_names()],
)
def test_a_replayed_plan_gives_the_same_bytes(options, planned, recipe):
    budget = "45kB" if recipe == "int5-mlp" else "24kB"
    options = options.changed(calib_tokens=512)
    replay = planned(recipe, budget, calib_tokens=512).changed(calib_tokens=512)
    again = build(replay)
    direct = build(options.changed(recipe=recipe, budget=budget, dry_run=True))
    assert again.artifact_sha256 == direct.artifact_sha256
    assert (again.recipe, again.budget_bytes) == (recipe, direct.budget_bytes)
    assert again.plan is not None


def test_an_edited_plan_is_honoured(planned, tiny, tmp_path):
    kept = {"blocks.0.attn.c_q.weight": "f32", "skip_weights": "bf16"}

    def edit(data):
        data["budget_bytes"] = 30_000
        for t in data["tensors"]:
            if t["name"] in kept:
                t["scheme"], t["options"] = "keep", {"dtype": kept[t["name"]]}

    out = tmp_path / "x.golf"
    report = build(planned("rd", "20kB", edit=edit).changed(dry_run=False, output=out))
    assert 20_000 < report.artifact_bytes <= 30_000
    assert {t.name: t.scheme for t in report.tensors if t.name in kept} == kept
    name = "blocks.0.attn.c_q.weight"
    assert np.array_equal(load(out).weights()[name], tiny.weights[name])


def test_a_replay_takes_other_budgets_and_settings_and_says_what_differs(options, planned):
    replay = planned("sdclip-brotli", "20kB")
    assert build(replay).warnings == []
    other = build(replay.changed(budget="25kB", calib_tokens=512))
    assert 20_000 < other.artifact_bytes <= 25_000
    assert any("other calibration" in w for w in other.warnings)
    plain = build(replay.changed(settings=("round.feedback=false",)))
    assert plain.artifact_sha256 != build(replay).artifact_sha256
    with pytest.raises(UsageError, match="its own passes"):
        build(replay.changed(recipe="rd"))


def test_code_that_a_plan_counts_must_be_named_again(options, planned, tmp_path):
    code = tmp_path / "run.py"
    code.write_bytes(b"#" * 5_000)
    replay = planned("int8-zlib", "40kB", code=(code,))
    with pytest.raises(UsageError, match="5,000 bytes"):
        build(replay)
    report = build(replay.changed(code=(code,)))
    assert report.artifact_bytes <= 35_000
    assert report.budget_bytes == 40_000


def _tensor(data, **changes):
    data["tensors"][1] |= changes


BAD_EDITS = [
    (lambda d: _tensor(d, options={"bitz": 3}), "tok_emb.weight: .*no option 'bitz'"),
    (lambda d: _tensor(d, scheme="int", options={"bits": 12}), "tok_emb.weight: .*bits is 12"),
    (lambda d: _tensor(d, scheme="int4"), "tok_emb.weight: .*no known scheme"),
    (lambda d: _tensor(d, shape=[256, 47]), "tok_emb.weight' is .256, 47. in it, .256, 48. in"),
    (lambda d: _tensor(d, name="emb"), "tok_emb.weight' is absent in it"),
    (lambda d: _tensor(d, name="skip_weights"), "skip_weights twice"),
    (
        lambda d: d["tensors"].append({**d["tensors"][0], "name": "new"}),
        "new' .*absent in the check",
    ),
    (lambda d: d["tensors"].append(3), r"tensors\[\d+\] is not an object"),
    (lambda d: d.pop("passes"), "no 'passes'"),
    (lambda d: d["passes"].append({"id": "polish"}), "unknown pass 'polish'"),
    (lambda d: d["passes"].append(3), r"passes\[\d+\] cannot be 3"),
    (lambda d: d["passes"].append({}), "a pass has no 'id'"),
    (lambda d: d["passes"].append({"id": ["fit"]}), "a pass: id cannot be .'fit'."),
    (lambda d: _tensor(d, options={"name": "*"}), "tok_emb.weight: 'name' is no option"),
    (lambda d: _tensor(d, options={"scheme": "rd"}), "tok_emb.weight: 'scheme' is no option"),
    (lambda d: d.update(budget_bytes="big"), "budget_bytes cannot be 'big'"),
    (lambda d: d.update(budget_bytes=True), "budget_bytes cannot be True"),
    (lambda d: d.update(budget_bytes=0), "budget_bytes is 0"),
    (lambda d: d.update(code_bytes=-1), "code_bytes is -1"),
]


@pytest.mark.parametrize(("edit", "says"), BAD_EDITS, ids=[says for _, says in BAD_EDITS])
def test_a_plan_that_does_not_fit_is_refused_before_calibration(planned, monkeypatch, edit, says):
    with pytest.raises(UsageError, match=says):  # noqa: PT012
        replay = planned("int8-zlib", "30kB", edit=edit)
        monkeypatch.setattr(backend_module, "calibrate", lambda *a, **k: pytest.fail("late"))
        build(replay)


def test_options_of_another_scheme_are_refused_with_a_hint(planned):
    with pytest.raises(UsageError, match=r"tok_emb.weight: .*no option") as e:
        build(planned("int8-zlib", "30kB", edit=lambda d: _tensor(d, scheme="rd")))
    assert "replaces both" in (e.value.hint or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        (None, "there is no file"),
        ("[]", "holds no JSON object"),
        ("{}", "has no"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, says):
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_plan(path)


def test_the_command_prints_the_plan(options, tiny_path, tiny_shard, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLFPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    args = [
        "plan", str(tiny_path), "--budget", "25kB", "--budget", "15kB", "--calib", str(tiny_shard),
        "--calib-tokens", "2048", "--threads", "1", "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    expected = plan(options, ["15kB", "25kB"])
    assert [r["predicted_kl"] for r in found["rows"]] == [r.predicted_kl for r in expected.rows]
    assert [r["budget_bytes"] for r in found["rows"]] == [15_000, 25_000]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert "15,000" in result.stdout
    assert "25,000" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_the_command_writes_a_plan_that_build_replays(tiny_path, tiny_shard, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        "--calib",
        str(tiny_shard),
        "--calib-tokens",
        "512",
        "--no-cache",
        "--threads",
        "1",
        "-q",
    ]
    made = ["plan", str(tiny_path), "--recipe", "int8-zlib", "--budget", "30kB", "-o", "p.json"]
    result = CliRunner().invoke(app, [*made, *common], catch_exceptions=False)
    assert result.exit_code == 0
    assert "int8" in result.stdout
    assert "no KL is predicted" in result.stdout
    replay = ["build", str(tiny_path), "--plan", "p.json", "-o", "x.golf", "--json"]
    result = CliRunner().invoke(app, [*replay, *common], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["plan"], report["budget_bytes"]) == ("p.json", 30_000)
    assert (tmp_path / "x.golf").stat().st_size == report["artifact_bytes"]
