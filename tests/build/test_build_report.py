"""What a build says of failures and fallbacks, and what others take from its report."""

import json
from functools import partial
from unittest.mock import Mock

import pytest
from conftest import asked

from golfpack.build import backend as backend_module
from golfpack.build.run import build
from golfpack.errors import ExitCode, GolfpackError
from golfpack.inspect.inspect import inspect
from golfpack.packer.quantize.gptq import factorize


@pytest.fixture
def options(tiny_path, tiny_shard, tmp_path):
    """A quick build of the tiny model into tmp_path."""
    return asked(
        tiny_path, "20000", tmp_path / "out.golf", calib=str(tiny_shard), calib_tokens=512,
        cache=False,
    )  # fmt: skip


def test_a_fault_is_reported_and_an_interruption_is_not(options, tmp_path, monkeypatch):
    class Interrupted(GolfpackError):
        exit_code = ExitCode.INTERRUPTED

    for error in (Interrupted("stop"), RuntimeError("it broke")):
        monkeypatch.setattr(backend_module, "calibrate", Mock(side_effect=error))
        with pytest.raises(type(error)):
            build(options.changed(dry_run=True))
        assert not list(tmp_path.iterdir())
        with pytest.raises(type(error)):
            build(options)
    (path,) = tmp_path.iterdir()
    report = json.loads(path.read_text())
    assert (report["error"], report["exit_code"]) == ("RuntimeError: it broke", 1)
    assert report["checkpoint_sha256"]
    assert [f["use"] for f in report["inputs"]] == ["calibration"]


def test_fallbacks_are_told_tensor_by_tensor(options, monkeypatch):
    exact = build(options.changed(budget="1MB", dry_run=True))
    assert all(t.fallback and t.fallback.startswith("kept as floats") for t in exact.tensors)
    assert exact.frontier == []
    raised = partial(factorize, damp=0.5)
    monkeypatch.setattr(
        "golfpack.packer.engine.factorize", lambda m, order, **_: raised(m, order=order)
    )
    damped = build(options.changed(dry_run=True))
    told = {t.name for t in damped.tensors if t.fallback and "damp raised to 0.5" in t.fallback}
    assert told == {t.name for t in damped.tensors if t.trace_h is not None} != set()


def test_inspect_takes_errors_from_the_report_of_this_very_artifact(options, tmp_path):
    report = build(options)
    seen = inspect(options.output)
    assert (seen.tensors, seen.notes) == (report.tensors, [])
    path = tmp_path / "out.report.json"
    good = json.loads(path.read_text())
    less = {**good, "tensors": good["tensors"][1:]}
    for text, says in (
        ("{", "is not JSON"),
        (json.dumps({**good, "artifact_sha256": "00"}), "of another artifact"),
        (json.dumps(less), "does not describe this artifact"),
        (json.dumps({**good, "tensors": [{}]}), "has no 'name'"),
    ):
        path.write_text(text)
        seen = inspect(options.output)
        assert seen.errors is None
        assert all(t.rel_err is None for t in seen.tensors)
        assert says in seen.notes[0]
