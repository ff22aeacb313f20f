"""`plan` before anything is built: the table it makes, what it refuses, and that a build then agrees."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from golfpack.api.build import build
from golfpack.api.plan import DEFAULT_BUDGETS, plan
from golfpack.api.prepare import BuildOptions
from golfpack.cli import app
from golfpack.errors import UsageError


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """Calibration of the tiny model on its shard; nothing cached, nothing to write."""
    return BuildOptions(
        tiny_path, output=tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=2048,
        cache=False,
    )  # fmt: skip


def test_a_plan_is_what_the_builds_then_find(options, tmp_path):
    report = plan(options, ["40kB", "15kB", "25kB"])
    assert [r.budget_bytes for r in report.rows] == [15_000, 25_000, 40_000]
    assert not list(tmp_path.iterdir())
    assert (report.calibration_tokens, report.recipe) == (2048, "rd")
    assert report.kl_ratio > 0
    for row in report.rows:
        built = build(replace(options, budget=str(row.budget_bytes), dry_run=True))
        assert row.artifact_bytes == pytest.approx(built.artifact_bytes, rel=0.01)
        assert row.bits_per_weight == pytest.approx(built.bits_per_weight, rel=0.01)
        assert built.measured_kl is not None
        assert 1 / 2 < row.predicted_kl / built.measured_kl < 2
        assert row.predicted_bpb is None
    losses = [r.predicted_kl for r in report.rows]
    assert losses == sorted(losses, reverse=True)


def test_without_a_budget_the_plan_spans_where_people_build(options):
    report = plan(options, [])
    assert [r.budget_bytes for r in report.rows] == [
        int(float(b.removesuffix("bpw")) * report.parameters) // 8 for b in DEFAULT_BUDGETS
    ]


def test_code_counts_towards_every_budget(options, tmp_path):
    code = tmp_path / "run.py"
    code.write_bytes(b"#" * 5_000)
    alone, beside = plan(options, ["15kB"]), plan(replace(options, code=(code,)), ["20kB"])
    assert beside.rows[0].budget_bytes == 20_000
    assert replace(beside.rows[0], budget_bytes=15_000) == alone.rows[0]


@pytest.mark.parametrize(
    ("changes", "budgets", "says"),
    [
        ({"recipe": "sdclip-brotli"}, ["15kB"], "no gradients"),
        ({"data_free": True}, ["15kB"], "no gradients"),
        ({}, ["15kB", "16potato"], "16potato"),
        ({"recipe": "rdd"}, [], "unknown recipe"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_calibration(
    options, monkeypatch, changes, budgets, says
):
    monkeypatch.setattr("golfpack.api.prepare.calibrate", lambda *a, **k: pytest.fail("too late"))
    with pytest.raises(UsageError, match=says):
        plan(replace(options, **changes), budgets)


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
