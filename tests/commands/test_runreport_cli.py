"""`golfpack runreport` from the outside: data on stdout, warnings on stderr, exit codes."""

import json
from pathlib import Path

import pytest

META = {
    "type": "meta", "golfpack_log": 1, "time": "2026-01-02T03:04:05+00:00", "argv": ["train"],
    "model": {"num_layers": 2, "dim": 8, "num_heads": 2, "num_kv_heads": 1, "seq_len": 16},
    "config": {"steps": 4, "log_every": 1},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one run, of which step 3 has no record."""
    (tmp_path / "run").mkdir()
    steps = [{"type": "step", "step": s, "loss": 3.0 - s / 4, "grad_norm": 1.0} for s in (1, 2, 4)]
    text = "".join(json.dumps(x) + "\n" for x in (META, *steps))
    (tmp_path / "run" / "train.jsonl").write_text(text)
    return tmp_path


def test_documents_go_to_stdout_or_to_a_file(inside, folder: Path) -> None:
    seen = inside("runreport", "run")
    assert (seen.returncode, seen.stderr) == (0, "warning: 1 of 4 steps have no record\n")
    assert seen.stdout.startswith("# Run Report: run\n")
    written = inside("runreport", "run", "-o", "r.md")
    assert written.stdout == ""
    assert (folder / "r.md").read_text() == seen.stdout
    assert inside("runreport", "run", "-o", "r.md").returncode == 2
    both = inside("runreport", "run", "-o", "r.md", "--force", "--json")
    assert both.report["coverage"]["missing"] == 1
    summary = inside("runreport", "run", "--format", "summary").stdout
    assert "- Compression vs fp16 baseline: `2.00\u00d7`" in summary


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["nowhere"], 2, "there is no folder nowhere"),
        (["run", "--format", "pdf"], 2, "unknown --format 'pdf'"),
        (["run", "--strict"], 5, "1 of 4 steps have no record"),
        (["run", "--notes", "none.md"], 2, "there is no file of notes none.md"),
        (["run", "--notes", "x.md", "--format", "summary"], 2, "no place for notes"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    inside, options: list[str], code: int, named: str
) -> None:
    seen = inside("runreport", *options)
    assert seen.returncode == code
    assert named in seen.stderr
    assert seen.stdout == ""


def test_a_run_that_has_not_stepped_yet(inside, folder: Path) -> None:
    (folder / "run" / "train.jsonl").write_text(json.dumps(META) + "\n")
    summary = inside("runreport", "run", "--format", "summary")
    assert (summary.returncode, summary.stderr) == (0, "")
    assert "## Results" not in summary.stdout
    report = inside("runreport", "run").stdout
    assert "| **Status** | started |" in report
    assert "The log has no records of steps." in report


def test_a_broken_log_is_exit_code_4(inside, folder: Path) -> None:
    with (folder / "run" / "train.jsonl").open("a") as log:
        log.write("{broken\n")
    seen = inside("runreport", "run")
    assert seen.returncode == 4
    assert "train.jsonl, line 5: not a JSON object" in seen.stderr
