"""A run's folder -> `RunLog`, whichever of the known systems wrote it."""

from pathlib import Path

from golfpack.errors import CorruptError, UsageError
from golfpack.runlog import alpha, bottleneck, own
from golfpack.runlog.jsonl import read_lines, read_object
from golfpack.runlog.log import RunLog


def read_run(folder: Path) -> RunLog:
    """Read the log in a run's folder.

    Raises:
        UsageError: no folder, no log, or one of an unknown system.
        CorruptError: a line that cannot be read; the message names file and line.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "name the folder that train wrote to")
    if (folder / alpha.LOG).is_file():
        lines, warnings = read_lines(folder / alpha.LOG)
        return alpha.read(folder, read_object(folder / alpha.CONFIG), lines, warnings)
    if not (folder / own.LOG).is_file():
        raise UsageError(
            f"{folder} holds no training log",
            f"a run has {own.LOG}, or {alpha.LOG} beside {alpha.CONFIG}",
        )
    lines, warnings = read_lines(folder / own.LOG)
    if not lines:
        raise CorruptError(f"{folder / own.LOG} is empty", "wait for the run's first step")
    for system in (own, bottleneck):
        if system.wrote(lines):
            return system.read(folder, lines, warnings)
    raise UsageError(
        f"{folder / own.LOG} is of no known system",
        "it starts with a meta record of golfpack, or of the decoupled-bottleneck runs",
    )
