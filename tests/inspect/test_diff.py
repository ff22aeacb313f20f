"""`diff`: what it says of two files is what `inspect` and the weights say."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import asked
from rich.console import Console

from golfpack.build.run import build
from golfpack.commands import diff as render_diff
from golfpack.errors import ExitCode, UsageError
from golfpack.inspect.diff import diff
from golfpack.inspect.diff_report import DiffReport
from golfpack.inspect.inspect import inspect
from golfpack.packer.format.loader import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_path, tiny_shard) -> Path:
    """A checkpoint, artifacts of it at two budgets, and one of another family."""
    path = tmp_path_factory.mktemp("diff")
    (path / "tiny.pt").write_bytes(tiny_path.read_bytes())
    for name, budget in (("small", "15kB"), ("large", "25kB")):
        build(
            asked(
                path / "tiny.pt", budget, path / f"{name}.golf", calib=str(tiny_shard),
                calib_tokens=512, cache=False,
            )
        )  # fmt: skip
    rng = np.random.default_rng(0)
    other = {"fc.weight": torch.from_numpy(rng.standard_normal((40, 30)).astype("f4"))}
    torch.save(other, path / "other.pt")
    build(asked(path / "other.pt", "6bpw", path / "other.golf", data_free=True))
    (path / "bare.golf").write_bytes((path / "small.golf").read_bytes())
    return path


def test_a_file_does_not_differ_from_itself_or_from_its_report(folder):
    for other in ("small.golf", "small.report.json"):
        report = diff(folder / "small.golf", folder / other)
        assert report.same
        assert (report.changes, report.tensors) == ([], [])
        assert report.unchanged == len(load(folder / "small.golf").tensors)


def test_two_budgets_differ_in_what_the_reports_and_the_weights_say(folder):
    small, large = (
        json.loads((folder / f"{n}.report.json").read_text()) for n in ("small", "large")
    )
    report = diff(folder / "small.golf", folder / "large.golf")
    assert not report.same
    changed = {c.what: (c.a, c.b) for c in report.changes}
    assert changed["bytes"] == (small["artifact_bytes"], large["artifact_bytes"])
    assert changed["budget bytes"] == (15_000, 25_000)
    assert changed["KL"] == (small["measured_kl"], large["measured_kl"])
    assert changed["bpw"] == (small["bits_per_weight"], large["bits_per_weight"])
    assert not {"family", "recipe", "seed", "parameters", "checkpoint sha256"} & set(changed)
    assert not [what for what in changed if what.startswith(("config", "version", "calibration"))]
    packed = [load(folder / f"{n}.golf").tensors for n in ("small", "large")]
    rows = [{t["name"]: t for t in r["tensors"]} for r in (small, large)]
    assert len(report.tensors) + report.unchanged == len(rows[0])
    for t in report.tensors:
        assert t.a is not None
        assert t.b is not None
        assert (t.a.bytes, t.b.bytes) == (rows[0][t.name]["bytes"], rows[1][t.name]["bytes"])
        assert (t.a.rel_err, t.b.rel_err) == (
            rows[0][t.name]["rel_err"],
            rows[1][t.name]["rel_err"],
        )
        a, b = (side[t.name][1] for side in packed)
        before, after = a.dequantize().astype(float), b.dequantize().astype(float)
        change = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert t.weights == pytest.approx(change, rel=1e-6)
        assert t.codes == np.mean(a.codes != b.codes)
        assert t.steps == (not np.array_equal(a.steps.row, b.steps.row))
    sizes = [abs(t.b.bytes - t.a.bytes) for t in report.tensors if t.a and t.b]
    assert sizes == sorted(sizes, reverse=True)


def test_a_checkpoint_against_its_artifact_shows_every_rel_err(folder):
    report = diff(folder / "tiny.pt", folder / "small.golf")
    known = {t.name: t for t in inspect(folder / "small.golf", folder / "tiny.pt").tensors}
    assert [report.a.kind, report.b.kind] == ["checkpoint", "artifact"]
    assert {t.name for t in report.tensors} == set(known)
    for t in report.tensors:
        assert t.weights == pytest.approx(known[t.name].rel_err, rel=1e-5)
        assert t.a is not None
        assert (t.a.scheme, t.a.bpw, t.codes) == ("float32", 32.0, None)
    changed = {c.what: (c.a, c.b) for c in report.changes}
    assert "checkpoint sha256" not in changed
    assert changed["recipe"] == (None, "rd")
    assert not [what for what in changed if what.startswith("version")]


def test_errors_come_from_a_float_checkpoint_where_no_report_tells(folder):
    assert diff(folder / "bare.golf", folder / "small.golf").same
    alone = diff(folder / "bare.golf", folder / "large.golf")
    assert alone.a.report is None
    assert {t.a.rel_err for t in alone.tensors if t.a} == {None}
    told = diff(folder / "bare.golf", folder / "large.golf", folder / "tiny.pt")
    known = {t.name: t.rel_err for t in inspect(folder / "small.golf", folder / "tiny.pt").tensors}
    assert {t.name: t.a.rel_err for t in told.tensors if t.a} == known
    # A report of another file beside it tells nothing.
    (folder / "bare.report.json").write_bytes((folder / "large.report.json").read_bytes())
    assert diff(folder / "bare.golf", folder / "large.golf").a.report is None


def test_another_family_shares_no_tensor(folder):
    report = diff(folder / "small.golf", folder / "other.golf")
    changed = {c.what: (c.a, c.b) for c in report.changes}
    assert changed["family"] == ("golf", "tensors")
    assert changed["config num_layers"] == (2, None)
    only = {t.name: (t.a is None, t.b is None) for t in report.tensors}
    assert only.pop("fc.weight") == (True, False)
    assert set(only.values()) == {(False, True)}
    assert report.unchanged == 0


@pytest.mark.parametrize(
    ("a", "float_path", "says"),
    [("none.golf", None, "none.golf"), ("plain.json", None, "no report of a build"),
     ("small.golf", "other.pt", "is not in the float checkpoint")],
)  # fmt: skip
def test_what_cannot_be_compared_is_bad_input(folder, a, float_path, says):
    (folder / "plain.json").write_text('{"artifact_bytes": 3}')
    with pytest.raises(UsageError, match=says):
        diff(folder / a, folder / "small.golf", None if float_path is None else folder / float_path)


def test_options_that_shapes_do_not_tell_are_of_the_checkpoints(folder):
    report = diff(folder / "tiny.pt", folder / "small.golf", settings=["model.softcap=12"])
    (change,) = [c for c in report.changes if c.what.endswith("softcap")]
    assert (change.a, change.b) == (12.0, load(folder / "small.golf").config["softcap"])
    for settings, says in ((["sense.damp=1"], "sets nothing"), (["model.softcap=12"], "neither")):
        with pytest.raises(UsageError, match=says):
            diff(folder / "small.golf", folder / "large.golf", settings=settings)


def test_the_command_prints_tables_markdown_and_json(folder, inside):
    run = inside("diff", "small.golf", "large.golf", "-q")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("a  small.golf: artifact, ")
    assert any(line.startswith("budget bytes") and "+10,000 (+66.7%)" in line for line in lines)
    assert lines[-1].endswith("tensors differ")
    text = inside("diff", "small.golf", "other.golf", "--md", "-q").stdout
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "| what | a | b | change |" in tables
    assert len({line.count("|") for line in tables}) == 2
    report = inside("diff", "small.golf", "large.golf", "--json", "-q").report
    assert (report["same"], report["argv"][:2]) == (False, ["diff", "small.golf"])
    run = inside("diff", "small.golf", "small.golf", "--json", "--md")
    assert run.returncode == ExitCode.USAGE


def on_terminal(monkeypatch, width: int, report: DiffReport) -> list[str]:
    """What is shown of a report on a terminal of that width."""
    file = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    console = Console(
        file=file, highlight=False, soft_wrap=True, markup=False, width=width, force_terminal=True,
        color_system=None,
    )  # fmt: skip
    monkeypatch.setattr(render_diff, "out", console)
    render_diff.show_diff(report)
    return file.getvalue().splitlines()


KEYS = ("rel_err:", "weights:", "codes:", "steps:")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_narrow_terminal_is_told_what_it_does_not_see(folder, monkeypatch, width):
    report = diff(folder / "small.golf", folder / "large.golf")
    lines = on_terminal(monkeypatch, width, report)
    head = next(i for i, line in enumerate(lines) if line.startswith("tensor "))
    shown = lines[head]
    rows = lines[head : head + 1 + len(report.tensors)]
    assert max(map(len, lines[2:head] + rows)) <= width
    told = next((line for line in lines if line.startswith("left out, as the terminal")), "")
    key = next((line for line in lines if line.split(" ")[0] in KEYS), "")
    headings = [c.header for c in render_diff._TENSORS]
    for heading in headings:
        assert (heading in shown) != (heading in told.partition(": ")[2].split(", "))
    for what in KEYS:  # explained where shown, and only there
        assert (what[:-1] in shown) == (what in key)
    if width == 160:
        assert not told


def test_values_are_words_and_never_cut():
    zlib = {
        "codec": {"id": "zlib", "level": 9}, "filters": [{"id": "shuffle", "stride": 2}], "sort": [],
        "order": "row",
    }  # fmt: skip
    long = "tensor x: " + "a cause of length " * 9
    for value, says in (
        ({"codec": {"id": "rans"}}, "codec rans"),
        (zlib, "codec zlib (level 9), filters shuffle (stride 2), order row"),
        ([zlib | {"stream": "a"}, {}], "codec zlib (level 9), filters shuffle (stride 2), order row, "
         "stream a, none"),
        ([], "none"),
        (["search.slack=1", "model.softcap=20"], "search.slack=1, model.softcap=20"),
        ([long, long], f"{long}, {long}"),
        ("ab" * 32, "abababababababab"),
        (None, "-"),
        (True, "True"),
        (12345, "12,345"),
    ):  # fmt: skip
        assert render_diff._value(value) == says


def test_markdown_holds_no_json(folder, inside):
    text = inside("diff", "small.golf", "other.golf", "--md", "-q").stdout
    assert not set(text) & set('{}[]"')
    assert "..." not in text


def test_only_exit_code_makes_a_difference_an_exit_code(folder, inside):
    for args, code in (
        (("small.golf", "large.golf"), 0),
        (("small.golf", "large.golf", "--exit-code"), ExitCode.DIFFERENT),
        (("small.golf", "small.report.json", "--exit-code"), 0),
    ):
        assert inside("diff", *args, "-q").returncode == code
