"""Write docs/commands.md from the command line itself: python docs/make_commands.py."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo

from golfpack.cli import COMMANDS

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

Every command with its options and examples, as `golfpack COMMAND --help` has them. This page is made by
`docs/make_commands.py`.

Everywhere: data goes to stdout, progress, notes and warnings to stderr; `--json` prints the report as
JSON; `--set` sets an option of a pass or of the model; nothing is written half. Progress is a live line
on a terminal (none under `-q`), plain lines elsewhere; `NO_COLOR` turns colours off.
`golfpack --install-completion` makes the shell complete commands, options and the names of recipes,
families, presets and kinds.

Exit codes: 0 done, 1 a fault of golfpack, 2 unusable input, 3 nothing fits the budget, 4 a damaged file
or an audit that failed, 5 `--strict` turned a warning into an error, 6 `diff --exit-code` found a
difference, 130 interrupted.
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_section(*entry) for entry in COMMANDS)


def options_of(command: Callable[..., Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, type, typer's description, and default of everything a command takes."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotated = get_args(hints[name])
        if annotated:  # typer's own context is no option
            yield name, annotated[0], annotated[1], parameter.default


def _section(name: str, command: Callable[..., Any], examples: str) -> str:
    lines = examples.partition(": ")[2].split(" | ")
    rows = [_row(*option) for option in options_of(command)]
    return "\n".join(
        [
            "", f"## `golfpack {name}`", "", _plain(command.__doc__ or ""), "",
            *(f"    {line}" for line in lines), "",
            "| option | what it is for |", "|---|---|", *rows, "",
        ]
    )  # fmt: skip


def _row(name: str, kind: Any, told: Any, default: Any) -> str:
    if isinstance(told, ArgumentInfo):
        return f"| `{name.upper()}` | {_plain(told.help or '')} |"
    # In an Annotated, typer keeps the first name where a default would be.
    declared = (told.default, *(told.param_decls or ()))
    names = [d for d in declared if isinstance(d, str) and d.startswith("-")]
    label = ", ".join(names or [f"--{name.replace('_', '-')}"])
    if kind is bool and not names:
        label += f" / --no-{name.replace('_', '-')}"
    label += "" if kind is bool else f" {told.metavar or _value(kind)}"
    required = " Required." if default is inspect.Parameter.empty else ""
    again = " Can be given several times." if "list" in str(kind) else ""
    return f"| `{_plain(label)}` | {_plain(told.help or '')}{required}{again}{_default(told, default)} |"


def _value(kind: Any) -> str:
    text = str(kind)
    return "PATH" if "Path" in text else "NUMBER" if "int" in text or "float" in text else "TEXT"


def _default(told: Any, default: Any) -> str:
    if isinstance(told.show_default, str):
        return f" Default: {told.show_default}."
    unsaid = any(default is none for none in (None, False, inspect.Parameter.empty))
    if unsaid or "Default:" in told.help:
        return ""
    return " Default: on." if default is True else f" Default: {default}."


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
