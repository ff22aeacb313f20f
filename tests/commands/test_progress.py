"""Progress: no line wraps on a narrow terminal, plain lines elsewhere, and no long stage is silent."""

import io
import re

import pytest
from conftest import asked
from rich.console import Console

from golfpack.build import backend
from golfpack.build.run import build
from golfpack.commands.render import starting
from golfpack.commands.render.console import note
from golfpack.commands.render.progress import PLAIN_INTERVAL, Reporter
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NOTE = (
    "the KL to the float model on held-out calibration tokens, and more than any line can hold " * 2
)


class Terminal:
    """A terminal of a given width that keeps what is written to it."""

    def __init__(self, width: int, **options: object) -> None:
        self.file = io.StringIO()
        self.console = Console(
            force_terminal=True, width=width, file=self.file, highlight=False, **options
        )  # type: ignore[arg-type]

    def show(self, *calls: tuple[str, int, int, str]) -> list[str]:
        """The lines of every frame, without control characters."""
        with Reporter(console=self.console) as notify:
            for call in calls:
                notify(*call)
        text = _CONTROL.sub("", self.file.getvalue())
        return [line for line in re.split(r"[\r\n]", text) if line.strip()]


CALLS = (("calibrate", 1, 10, "4,096 tokens"), ("round", 3, 32, NOTE), ("verify", 0, 0, NOTE))


@pytest.mark.parametrize("width", [24, 39, 40, 60, 79, 80, 140])
def test_no_line_is_wider_than_the_terminal(width):
    lines = Terminal(width).show(*CALLS)
    assert max(map(len, lines)) <= width
    for stage, *_ in CALLS:
        assert any(stage in line for line in lines)
    # A line that was cut says so, and is used to its end.
    assert any(line.endswith("…") and len(line) == width for line in lines)
    assert any("eta" in line for line in lines) == (width >= 40)
    assert any("━" in line for line in lines) == (width >= 80)


def test_a_stage_of_unknown_length_gives_its_line_to_the_next():
    terminal = Terminal(100)
    with Reporter(console=terminal.console) as notify:
        assert notify.live is not None
        notify("read", 0, 0, "ckpt.pt")
        notify("sense", 2, 2, "a")
        assert [t.description for t in notify.live.tasks if t.visible] == ["sense"]
        notify("encode", 0, 0, "rans")
        assert [t.description for t in notify.live.tasks if t.visible] == ["sense", "encode"]
        notify("read", 0, 0, "again.pt")
        assert [t.description for t in notify.live.tasks if t.visible] == ["read", "sense"]


def test_names_with_brackets_are_shown_as_they_are():
    lines = Terminal(120).show(
        ("encode", 0, 0, "[/nothing] {'id': 'zlib'}"), ("round", 1, 2, "blocks[0]")
    )
    assert any("[/nothing] {'id': 'zlib'}" in line for line in lines)
    assert any("blocks[0]" in line for line in lines)


def test_no_color_is_respected(monkeypatch):
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    coloured = Terminal(100, color_system="truecolor")
    coloured.show(*CALLS)
    assert colours.search(coloured.file.getvalue())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal(100, color_system="truecolor")
    plain.show(*CALLS)
    assert not colours.search(plain.file.getvalue())


@pytest.mark.parametrize("term", ["dumb", None])
def test_elsewhere_there_are_plain_lines_now_and_then(term, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("golfpack.commands.render.progress.time.monotonic", lambda: now[0])
    if term is not None:
        monkeypatch.setenv("TERM", term)
    console = Console(file=io.StringIO(), force_terminal=term is not None)
    with Reporter(console=console) as notify:
        notify("round", 1, 4, "a")
        now[0] += PLAIN_INTERVAL / 2
        notify("round", 2, 4, "b")
        now[0] += PLAIN_INTERVAL / 2
        notify("round", 3, 4, "c")
        notify("verify", 0, 0, "KL")
    assert capsys.readouterr().err.splitlines() == [
        "round 1/4 a", "round 3/4 c eta 5 s", "verify KL",
    ]  # fmt: skip


def test_time_left_is_estimated_from_what_was_done_meanwhile(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("golfpack.commands.render.progress.time.monotonic", lambda: now[0])
    notify = Reporter(console=Console(file=io.StringIO()))
    for done in (
        500,
        500,
        520,
        100,
        110,
    ):  # resumed; nothing done; 20 in 20 s; begun anew; 10 in 10
        notify("train", done, 1000, "x")
        now[0] += PLAIN_INTERVAL
    assert capsys.readouterr().err.splitlines() == [
        "train 500/1000 x", "train 500/1000 x", "train 520/1000 x eta 480 s",
        "train 100/1000 x", "train 110/1000 x eta 890 s",
    ]  # fmt: skip


def test_quiet_is_quiet(capsys):
    terminal = Terminal(80)
    with Reporter(quiet=True, console=terminal.console) as notify:
        notify(*CALLS[1])
    assert terminal.file.getvalue() == capsys.readouterr().err == ""


class Recorder:
    """A `Notify` that keeps the last (done, total, note) of every stage, and all notes."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int, str]] = {}
        self.notes: list[str] = []

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        assert 0 <= done <= total or total == 0, stage
        assert note, stage
        self.stages[stage] = (done, total, note)
        self.notes.append(note)


def test_a_build_tells_of_every_stage_and_writes_its_text_once(tiny_path, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLFPACK_CACHE", str(tmp_path / "cache"))
    options = asked(tiny_path, "20kB", tmp_path / "x.golf", calib_tokens=512)
    seen = Recorder()
    first = build(options, seen)
    ended = {stage for stage, (done, total, _) in seen.stages.items() if done == total > 0}
    assert ended >= {"write text", "calibrate", "sense", "round", "in sequence", "KL"}
    assert set(seen.stages) >= {"read", "fit", "encode", "verify"}
    assert f"{first.measured_kl:.5f} nats per token" in seen.notes
    searched = first.trace[:-1] if first.in_sequence else first.trace
    sizes = [int(size) for _, size in searched]
    if len(sizes) > 1:
        assert seen.stages["fit"][2] == f"for 20,000 bytes, last {sizes[-2]:,} bytes"
    monkeypatch.setattr(backend, "self_generated", lambda *a: pytest.fail("written twice"))
    again = build(options, seen)
    assert again.artifact_sha256 == first.artifact_sha256
    assert again.calibration == first.calibration


def test_an_evaluation_tells_of_every_stage(shared):
    seen = Recorder()
    options = EvalOptions(
        shared / "checkpoints" / "golf_0.48M" / "final_model.pt",
        str(shared / "data/shards/fineweb10B_sp1024_val_first262k.bin"),
        shared / "data/tokenizers/fineweb_1024_bpe.model", limit=1025, window=256,
    )  # fmt: skip
    report = evaluate(options, seen)
    assert list(seen.stages) == ["read", "score", "legality"]
    assert seen.stages["score"] == (
        1024, 1024, f"loss {report.val_loss:.4f}, {report.val_bpb:.4f} bpb",
    )  # fmt: skip
    assert seen.stages["legality"] == (2, 4, "score_before_update")


class FakeTimer:
    """A timer whose time comes when the test says so."""

    def __init__(self, seconds, call):
        self.seconds, self.call, self.daemon, self.state = seconds, call, False, "new"

    def start(self):
        self.state = "running"

    def cancel(self):
        self.state = "cancelled"


@pytest.fixture
def timers(monkeypatch):
    """Timers that were made, in a process at a terminal that has not loaded torch."""
    made = []
    monkeypatch.setattr(starting, "at_terminal", lambda: True)
    monkeypatch.setattr(
        starting.threading, "Timer", lambda *a: made.append(FakeTimer(*a)) or made[-1]
    )
    monkeypatch.delitem(starting.sys.modules, "torch")
    return made


@pytest.mark.parametrize("say", [lambda: Reporter(quiet=True)("read", 0, 0, ""), lambda: note("x")])
def test_whoever_waits_for_torch_is_told_once_and_nobody_else(timers, say, capsys):
    starting.starting.begin(["golfpack", "eval", "x.golf"])
    (timer,) = timers
    assert (timer.state, timer.daemon, timer.seconds) == ("running", True, starting.PATIENCE)
    assert starting.PATIENCE < 2
    timer.call()
    assert capsys.readouterr().err == "starting: loading torch\n"
    say()
    assert timer.state == "cancelled"


def test_quiet_commands_other_ranks_and_processes_that_have_torch_say_nothing(timers, monkeypatch):
    for argv in (["eval", "-q"], ["eval", "--quiet"], ["--help"], ["build", "-h"]):
        starting.starting.begin(["golfpack", *argv])
    monkeypatch.setenv("RANK", "1")
    starting.starting.begin(["golfpack", "eval"])
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(starting, "at_terminal", lambda: False)
    starting.starting.begin(["golfpack", "eval"])
    monkeypatch.setattr(starting, "at_terminal", lambda: True)
    monkeypatch.setitem(starting.sys.modules, "torch", None)
    starting.starting.begin(["golfpack", "eval"])
    assert timers == []
