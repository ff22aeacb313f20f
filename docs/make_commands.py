"""Write docs/commands.md from the command line itself: python docs/make_commands.py."""
# ruff: noqa: E501 (what commands print is as wide as it is)

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
families, settings of test-time training and kinds.

Exit codes: 0 done, 1 a fault of golfpack, 2 unusable input, 3 nothing fits the budget (of `sweep` and
`compare`: every row was refused), 4 a damaged file
or an audit that failed, 5 `--strict` turned a warning into an error, 6 `diff --exit-code` found a
difference, 129, 130 and 143 ended by SIGHUP, Ctrl-C or SIGTERM, 141 nobody reads its output any more (`| head`). What ends a
command leaves no half written file. Nobody needs to read stderr.
"""

# What some commands print, on the checkpoint of the README's worked example.
_PRINTS = {
    "sweep": """
    $ golfpack sweep ckpt.pt --budgets 2.5bpw,3bpw,4bpw --calib train.bin --tokens val.bin --tokenizer bpe.model --limit 16385
    float model: 1,918,982 bytes, 2.736437 bits per byte
    budget       bytes   headroom    share     bpw      bpb  quant gap        KL  build s
    2.5bpw     148,989         14   0.009%   2.500   2.7390   +0.00253   0.00087     26.2
      3bpw     178,745         59   0.033%   2.999   2.7375   +0.00109   0.00034     25.9
      4bpw     238,363         43   0.018%   3.999   2.7367   +0.00026   0.00006     25.5
    bpb on 16,384 tokens, window 1024
    recipe rd; KL to the float model in nats per token, on the first 8,192 of the evaluation's tokens; build s without calibration, which rows share
    artifacts, their reports and these rows are in ckpt.sweep
    at 2.5bpw, 10% more (14,899 bytes) would take 37% off the KL (0.000867 to 0.000546) and 0.00088 bits per byte off the loss
    at 3bpw, 10% more (17,874 bytes) would take 41% off the KL (0.000344 to 0.000204) and 0.00041 bits per byte off the loss
    at 4bpw, 10% more (23,836 bytes) would take 50% off the KL (5.97e-05 to 2.97e-05) and 8.8e-05 bits per byte off the loss, if the curve goes on as before

Below 5 MB the question is 10% more, from there on another megabyte. The KL is taken to fall exponentially in bytes between two
rows; the last row goes by the two before. A rerun takes finished rows from the folder; without
`--tokens` the KL is that of each build, on held-out calibration tokens. `--png` needs
`pip install -c constraints.txt '.[plots]'`, in the clone.
""",
    "diff": """
    $ golfpack diff ckpt.sweep/rd-3bpw.golf ckpt.sweep/rd-4bpw.golf
    a  ckpt.sweep/rd-3bpw.golf: artifact, 178,745 bytes, sha256 06b82929641a2ee6
    b  ckpt.sweep/rd-4bpw.golf: artifact, 238,363 bytes, sha256 7ca19b5fcc661cb6
    what                           a                 b                change
    bytes                    178,745           238,363      +59,618 (+33.4%)
    bpw                        2.999            3.9993      +1.0003 (+33.4%)
    ...
    tensor                     scheme                                bytes a  bytes b   change  rel_err a  rel_err b  weights   codes  steps
    tok_emb.weight             int13 log+col+t8 -> int15 log+col+t8   74,598   93,530  +18,932     0.1630     0.1084   0.1684   83.9%  others
    ...
    32 of 32 tensors differ

KL, recipe and versions of an artifact come from the report beside it, where that is of the same file.
The exit code is 0 whatever differs; `--exit-code` makes a difference 6, which no error of golfpack has.
""",
    "verify": """
    $ golfpack verify x.golf --report x.report.json --against ckpt.pt
    frame         ok  format version 4, 178,745 bytes as the manifest says, 2 streams
    stream steps  ok  2,538 bytes, sha256 e51b269be5edef7c
    stream codes  ok  175,630 bytes, sha256 33e062fe5dad0545
    file          ok  178,713 bytes before the digest at its end, sha256 bfe769008296ca4c
    tensors       ok  32 decode to 476,812 finite weights
    model         ok  family golf, its config and tensors belong together
    encoding      ok  the tensors encode to the same bytes again
    report        ok  sha256, bytes, config and tensors agree; within the budget of 178,804 bytes
    checkpoint    ok  the same tensors and shapes; rel_err 0.2261 over all weights, at worst 0.7444 in blocks.2.mlp.proj.weight
    x.golf is whole: 178,745 bytes
    sha256 of the file, digest included: 06b82929641a2ee6bfb879c93054d93fd9bb816a0c5cd210bb3ae2190cc182da

A check that failed is exit code 4. `encoding` says `differs`, which is no fault, where another version of
golfpack or of a codec's library wrote the file: then other bytes decode to the same tensors.
""",
}  # fmt: skip


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
            "| option | what it is for |", "|---|---|", *rows, _PRINTS.get(name, ""),
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
