"""`golfpack generate`: its options, and what it prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import (
    CORES,
    Device,
    Json,
    KvCache,
    KvResidual,
    Model,
    ModelArgs,
    Seed,
    Set,
    Threads,
)
from golfpack.commands.render.console import note, show_assumed, show_json, warn, write
from golfpack.errors import UsageError

if TYPE_CHECKING:
    from golfpack.generate.report import GenerateReport

EXAMPLES = (
    'Examples: golfpack generate x.golf --prompt "Once upon a time" | golfpack generate ckpt.pt '
    '--tokenizer bpe.model --prompt "The" --temperature 0 --tokens 50 | golfpack generate chat.golf '
    '--chat --prompt "Hello" --seed 7 | golfpack generate x.golf --prompt-ids 1,17,204 --kv-cache q8_0'
)


def generate(
    path: Annotated[Path, typer.Argument(help="Checkpoint or .golf artifact.")],
    prompt: Annotated[
        str | None, typer.Option(help="What the text begins with; may be empty.")
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option(metavar="IDS", help="Token ids instead: 1,17,204.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens to write at most.", show_default="256"),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="1: the model's own distribution; 0: the likeliest token.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Among that many of the likeliest; 0: all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Among those of so much probability.")] = 1.0,
    seed: Seed = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's turn, the text the answer.")
    ] = False,
    bos: Annotated[
        bool, typer.Option(help="Begin with the tokenizer's token for that, where it has one.")
    ] = True,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Default: the one inside the artifact, or beside the checkpoint."),
    ] = None,
    kv_cache: KvCache = None,
    kv_residual: KvResidual = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute every position again for each token; slow.")
    ] = False,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write text that follows a prompt, token by token; the same seed writes the same text."""
    from golfpack.artifact import open_model
    from golfpack.generate.run import GenerateOptions
    from golfpack.generate.run import generate as run
    from golfpack.generate.sample import Sampling
    from golfpack.models.choose import choose_family

    options = GenerateOptions(
        prompt=prompt, prompt_ids=None if prompt_ids is None else read_ids(prompt_ids), tokens=tokens,
        sampling=Sampling(temperature, top_k, top_p, seed), chat=chat, bos=bos, tokenizer=tokenizer,
        kv_cache=kv_cache, kv_residual=kv_residual, cached=not no_cache, threads=threads,
        device=device, argv=tuple(sys.argv[1:]),
    )  # fmt: skip
    family = choose_family(model, model_args or ())
    opened = open_model(path, tuple(settings or ()), family, tokenizer)
    show_assumed(opened.assumed)
    if json:
        report = run(opened, options)
        show_json(report)
    else:
        waiting = [prompt] if prompt and not chat else []  # until it is clear that text will follow

        def show(text: str) -> None:
            write("".join([*waiting, text]))
            waiting.clear()

        report = run(opened, options, show)
        show("\n")
    warn(report.warnings)
    show_speed(report)


def read_ids(text: str) -> tuple[int, ...]:
    """Token ids as people type them. Raises UsageError for what is no list of numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--prompt-ids {text!r} is no list of token ids", "such as 1,17,204")
    return tuple(map(int, parts))


def show_speed(report: "GenerateReport") -> None:
    """How long it took, on stderr."""
    held = "no cache"
    if report.kv_cache is not None:
        held = f"cache {report.kv_cache}, {report.kv_bytes:,} bytes"
    note(
        f"{len(report.tokens):,} tokens after a prompt of {len(report.prompt_ids):,}, "
        f"{report.tokens_per_second:,.1f} tokens per second, {held}"
    )
