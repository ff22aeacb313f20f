"""Options that several commands take."""

import os
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands import complete

# What this process may use: `taskset` and batch systems give it fewer than there are.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Device = Annotated[
    str,
    typer.Option(
        help="auto (cuda where there is one), cpu or cuda.", autocompletion=complete.device
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile, warmed up first.")]
CompileMode = Annotated[
    str | None,
    typer.Option(
        "--compile-mode",
        metavar="MODE",
        help="--compile in this mode of torch's, such as max-autotune.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option, such as model.softcap=15."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Threads = Annotated[
    int,
    typer.Option(min=1, help="Threads; the result does not depend on it.", show_default="cores"),
]
CHECKPOINT_HELP = "Checkpoint: .pt, .safetensors, transformers' folder, .int8.ptz, ALPH, llama2.c."
Checkpoint = Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="Recipe name or .toml file.", show_default="rd", autocompletion=complete.recipe
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(help="Token shard or text to calibrate on. Default: the model writes its own."),
]
CalibTokens = Annotated[int, typer.Option(min=2, help="Calibration tokens.")]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="SentencePiece model or tokenizer.json: for text, and for losses per byte. Default: that "
        "in the checkpoint, where that is a folder."
    ),
]
WithTokenizer = Annotated[
    bool,
    typer.Option(
        "--with-tokenizer", help="Put the tokenizer inside; it counts. Then it can generate."
    ),
]
Code = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="File that ships too and counts towards the budget."),
]
Ttt = Annotated[
    str,
    typer.Option(
        help="Score-first test-time training: none, sgd, lora, phased or a .toml file.",
        autocompletion=complete.ttt,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="FAMILY|FILE.py:CLASS",
        help="Read the checkpoint as this. FILE.py is run.",
        autocompletion=complete.family,
    ),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE|JSON", help="Keyword arguments of CLASS."),
]
KvCache = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="fp32 (default), fp16, q8_0, q4_0, nf4, each with /BLOCK; NAME=KIND,...; or tuned.",
    ),
]
KvResidual = Annotated[
    int | None,
    typer.Option(min=0, help="Newest tokens kept in fp16 beside codes.", show_default="128"),
]
Limit = Annotated[int, typer.Option(min=2, help="Tokens to read for the bpb.")]
Window = Annotated[
    int | None, typer.Option(min=1, help="Targets per window. Default: the trained length.")
]
EvalTokens = Annotated[
    str | None, typer.Option(help="Token shard, glob of shards, or text to evaluate on.")
]
RowsFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder for artifacts and finished rows. Default: NAME.compare or NAME.sweep."
    ),
]
KlTokens = Annotated[
    int, typer.Option(min=1, help="Tokens for the KL, the first of those for the bpb.")
]
DataFree = Annotated[
    bool, typer.Option("--data-free", help="No calibration: relative errors only, of any tensors.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say what every column means.")]
Strict = Annotated[bool, typer.Option("--strict", help="Turn warnings into errors.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Calibrate afresh.")]


def compile_mode(compiled: bool, mode: str | None) -> str | None:
    """The mode of torch.compile that `--compile` and `--compile-mode` ask for."""
    return mode or ("default" if compiled else None)


def given_options(context: typer.Context) -> frozenset[str]:
    """Names of the parameters that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(n for n, s in sources.items() if s is not None and s.name == "COMMANDLINE")
