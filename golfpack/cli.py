"""The command line: the commands by name, and what becomes of errors. They live in `commands/`."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from golfpack import __version__
from golfpack.commands import (
    about,
    build,
    check,
    compare,
    evaluate,
    files,
    report,
    runreport,
    sweep,
    train,
)
from golfpack.errors import (
    ExitCode,
    GolfpackError,
    PeerError,
)

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
        sys.stdout.write(f"golfpack {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


# In the order in which --help lists them: name, command, examples.
COMMANDS: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("build", build.build, build.BUILD_EXAMPLES),
    ("plan", build.plan, build.PLAN_EXAMPLES),
    ("eval", evaluate.evaluate, evaluate.EVAL_EXAMPLES),
    ("stats", evaluate.stats, evaluate.STATS_EXAMPLES),
    ("compare", compare.compare, compare.COMPARE_EXAMPLES),
    ("sweep", sweep.sweep, sweep.SWEEP_EXAMPLES),
    ("train", train.train, train.TRAIN_EXAMPLES),
    ("runreport", runreport.runreport, runreport.RUNREPORT_EXAMPLES),
    ("report", report.report, report.REPORT_EXAMPLES),
    ("inspect", files.inspect, files.INSPECT_EXAMPLES),
    ("diff", check.diff, check.DIFF_EXAMPLES),
    ("verify", check.verify, check.VERIFY_EXAMPLES),
    ("unpack", files.unpack, files.UNPACK_EXAMPLES),
    ("import", files.import_, files.IMPORT_EXAMPLES),
    ("demo", train.demo, train.DEMO_EXAMPLES),
    ("list", about.list_, about.LIST_EXAMPLES),
    ("env", about.env, about.ENV_EXAMPLES),
)
for _name, _command, _examples in COMMANDS:
    # "Examples: a | b": --help shows each on a line of its own.
    _lines = _examples.partition(": ")[2].split(" | ")
    app.command(_name, epilog="\n\n".join(["Examples:", *_lines]))(_command)


class _Interrupted(GolfpackError):
    exit_code = ExitCode.INTERRUPTED


def _on_interrupt(_signal: int, _frame: object) -> NoReturn:
    raise _Interrupted("interrupted", "no file was left half written")


def main() -> NoReturn:
    """Run a command; errors become one line, a hint and an exit code, never a traceback."""
    debug = bool(os.environ.get("GOLFPACK_DEBUG"))
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        app(prog_name="golfpack")
    except PeerError as e:
        _leave(e.exit_code)
    except GolfpackError as e:
        for text in getattr(e, "__notes__", []):
            sys.stderr.write(f"note: {text}\n")
        _fail(e.message, e.hint, e.exit_code, debug)
    except (Exception, KeyboardInterrupt) as e:
        notes = "; ".join(getattr(e, "__notes__", []))
        _fail(
            f"internal error: {type(e).__name__}: {e}" + (f" ({notes})" if notes else ""),
            "this is a fault of golfpack; GOLFPACK_DEBUG=1 shows where",
            ExitCode.INTERNAL,
            debug,
        )
    _leave(ExitCode.OK)


def _leave(code: ExitCode) -> NoReturn:
    """Exit. A rank of torchrun does so at once: winding down, a thread of torch's may abort it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(message: str, hint: str | None, code: ExitCode, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    _leave(code)
