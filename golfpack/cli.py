"""The command line: the commands by name, and what becomes of errors. They live in `commands/`."""

import errno
import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

import golfpack
from golfpack import __version__
from golfpack.commands.render.console import data, note
from golfpack.commands.render.starting import starting
from golfpack.errors import ExitCode, GolfpackError, PeerError, UsageError

app = typer.Typer(
    name="golfpack",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compile a float language model into the smallest artifact that keeps its quality, under an "
    "exact byte budget, and evaluate it in bits per byte.",
)


def _version(value: bool) -> None:
    if value:
        data(f"golfpack {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


# What people type, in the order in which --help lists it, and the file in commands/: that has a function
# of the same name, and EXAMPLES.
FILES = {
    "build": "build",
    "plan": "plan",
    "probe": "probe",
    "eval": "evaluate",
    "generate": "generate",
    "tune-cache": "tune_cache",
    "stats": "stats",
    "compare": "compare",
    "sweep": "sweep",
    "train": "train",
    "size": "size",
    "runreport": "runreport",
    "report": "report",
    "inspect": "inspect",
    "diff": "diff",
    "verify": "verify",
    "unpack": "unpack",
    "export": "export",
    "import": "import_",
    "demo": "demo",
    "list": "list_",
    "env": "env",
}


def _command(name: str, file: str) -> tuple[str, Callable[..., Any], str]:
    module = import_module(f"golfpack.commands.{file}")
    return name, getattr(module, file), module.EXAMPLES


# Name, command, examples.
COMMANDS = tuple(_command(name, file) for name, file in FILES.items())
for _name, _run, _examples in COMMANDS:
    # "Examples: a | b": --help shows each on a line of its own.
    _lines = _examples.partition(": ")[2].split(" | ")
    app.command(_name, epilog="\n\n".join(["Examples:", *_lines]))(_run)


# Errors of writing that are no fault of golfpack.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


# Whatever ends a program from outside: the user, a scheduler, a terminal that goes away.
ENDS = {
    signal.SIGINT: ("interrupted", ExitCode.INTERRUPTED),
    signal.SIGTERM: ("ended by SIGTERM", ExitCode.TERMINATED),
    signal.SIGHUP: ("ended by SIGHUP", ExitCode.HANGUP),
}


class _Interrupted(GolfpackError):
    def __init__(self, number: int) -> None:
        told, self.exit_code = ENDS[signal.Signals(number)]
        super().__init__(told, "no file was left half written")


def _on_end(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(number)


def main() -> NoReturn:
    """Run a command; errors become one line, a hint and an exit code, never a traceback."""
    debug = bool(os.environ.get("GOLFPACK_DEBUG"))
    starting.begin(sys.argv)
    for number in ENDS:
        # `nohup` has SIGHUP ignored. A rank that torchrun ends may wait for others, deaf to signals.
        left_alone = signal.getsignal(number) == signal.SIG_IGN or _ranks() > 1
        if number == signal.SIGINT or not left_alone:
            signal.signal(number, _on_end)
    try:
        _run_command()
    except PeerError as e:
        _leave(e.exit_code)
    except GolfpackError as e:
        for text in getattr(e, "__notes__", []):
            note(f"note: {text}")
        _fail(e.message, e.hint, e.exit_code, debug)
    except (Exception, KeyboardInterrupt) as e:
        notes = "; ".join(getattr(e, "__notes__", []))
        if (where := users_frame(e)) is not None:
            _fail(
                f"{where.filename}, line {where.lineno}: {type(e).__name__}: {e}",
                "this is code that --model has run; how long its sequences may be is told by --set "
                "model.seq_len=N, in training by train.seq_len",
                ExitCode.USAGE,
                debug,
            )
        _fail(
            f"internal error: {type(e).__name__}: {e}" + (f" ({notes})" if notes else ""),
            "this is a fault of golfpack; GOLFPACK_DEBUG=1 shows where",
            ExitCode.INTERNAL,
            debug,
        )
    finally:
        starting.over()
    _leave(ExitCode.OK)


def _run_command() -> None:
    """Run what was typed, to the last byte of what it prints.

    Raises:
        UsageError: the disk or device that stdout, or a log, is written to takes no more.
    """
    try:
        try:
            app(prog_name="golfpack")
        except SystemExit as end:  # so ends every command that typer runs
            if isinstance(end.__context__, BrokenPipeError):
                raise end.__context__ from None
            sys.stdout.flush()
            raise
    except OSError as e:
        if e.errno not in _FULL:
            raise
        # What could not be written is not tried again as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if e.errno == errno.EPIPE:  # `| head` has seen enough
            sys.exit(ExitCode.BROKEN_PIPE)
        raise UsageError(
            f"the output cannot be written: {e.strerror}",
            "check where it goes, and the space there",
        ) from e


def users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Where code of the user's raised an error: the last frame outside libraries, if it is not ours."""
    paths = sysconfig.get_paths()
    ours = golfpack.__path__[0]
    libraries = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        # A class's products with its weights are taken over, and fail there as they would in torch.
        torchs = frame.filename == os.path.join(ours, "models", "user", "weight_uses.py")
        if frame.filename.startswith(ours) and not torchs:
            return None
        if not torchs and not frame.filename.startswith(("<", *libraries)):
            return frame
    return None


def _ranks() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _leave(code: ExitCode) -> NoReturn:
    """Exit. A rank of torchrun does so at once: winding down, a thread of torch's may abort it."""
    if _ranks() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(message: str, hint: str | None, code: ExitCode, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    note(f"error: {message}")
    if hint:
        note(f"hint: {hint}")
    _leave(code)
