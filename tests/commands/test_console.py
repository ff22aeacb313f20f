"""What reaches the terminal: nothing that a file could have it obey, and every byte or an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from golfpack.commands.render import console
from golfpack.commands.render.escape import escaped
from golfpack.commands.render.progress import Reporter
from golfpack.commands.render.tables import plain_table
from golfpack.commands.render.terminal import Stdout
from golfpack.errors import ExitCode

ODD = "w\x1b[31m\x07\r\x9b1m\u202e\ud800[bold]:b:"
SHOWN = r"w\x1b[31m\x07\x0d\u009b1m\u202e\ud800[bold]:b:"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of no known family whose tensor's name would colour the terminal."""
    torch.save({"w\x1b[31m\x9b.weight": torch.randn(30, 40)}, tmp_path / "odd.pt")
    return tmp_path


def test_control_characters_are_spelt_out_and_layout_is_kept():
    assert escaped(f"a\tb\n{ODD}") == f"a\tb\n{SHOWN}"
    document = json.dumps({"name": ODD, "then": "\x7f\u2069"}, ensure_ascii=False)
    assert json.loads(escaped(document)) == json.loads(document)


@pytest.mark.parametrize("terminal", [False, True])
def test_every_way_to_print_escapes(terminal, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        console, "out", Stdout(force_terminal=terminal, width=200, color_system=None)
    )
    table = plain_table(("name",))
    table.add_row(ODD)
    for show in (console.out.print, console.note, console.data, lambda t: console.warn([t])):
        show(ODD)
    console.out.print(table)
    with Reporter(console=Console(stderr=True)) as notify:
        notify("read", 0, 0, ODD)
    seen = capsys.readouterr()
    assert seen.out.splitlines() == [SHOWN, SHOWN, " " * (len(SHOWN) - 4) + "name", SHOWN]
    assert seen.err.splitlines() == [SHOWN, f"warning: {SHOWN}", f"read {SHOWN}"]


def test_a_tensor_of_a_file_cannot_write_to_the_terminal(inside):
    build = inside("build", "odd.pt", "--lossless", "-o", "odd.golf")
    assert build.returncode == 0, build.stderr
    shown = inside("inspect", "odd.golf")
    assert r"w\x1b[31m\u009b.weight" in shown.stdout
    told = inside("diff", "odd.golf", "odd.pt", "--md")
    assert r"w\x1b[31m\u009b.weight" in told.stdout
    refused = inside("build", "odd.pt", "--budget", "1MB")
    assert r"w\x1b[31m\u009b.weight" in refused.stderr
    for run in (build, shown, told, refused):
        assert not {"\x1b", "\x9b"} & set(run.stdout + run.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("more", "python"), [([], ["-u"]), (["--json"], [])])
def test_output_that_cannot_be_written_is_no_fault_of_golfpack(inside, folder, more, python):
    assert inside("build", "odd.pt", "--lossless", "-o", "odd.golf").returncode == 0
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, *python, "-m", "golfpack", "inspect", "odd.golf", *more],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
    assert run.returncode == ExitCode.USAGE
    assert "error: the output cannot be written: No space left on device\n" in run.stderr
    assert "fault" not in run.stderr
    assert "Exception ignored" not in run.stderr


def test_a_reader_that_has_seen_enough_is_no_error(inside, folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "golfpack", "list", "recipes", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == ExitCode.BROKEN_PIPE


def test_a_build_goes_on_where_nobody_reads_its_progress(inside, folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "golfpack", "build", "odd.pt", "--lossless", "-o", "unseen.golf"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    assert b"unseen.golf" in process.stdout.read()
    process.stdout.close()
    assert process.wait() == ExitCode.OK
    assert (folder / "unseen.golf").exists()
