"""`golfpack generate`: a model and a prompt -> text, told as it comes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from golfpack.base.convert import check_counts
from golfpack.errors import UsageError
from golfpack.generate.prompt import Prompt, ids_prompt, text_prompt
from golfpack.generate.report import GenerateReport
from golfpack.generate.sample import Sampler, Sampling
from golfpack.generate.stream import TextStream, stream_tokens
from golfpack.kv.cache import StoredCache, check_cached, observe
from golfpack.kv.layout import DEFAULT_RESIDUAL
from golfpack.kv.policy import DEFAULT, residual_of, stored_as, told
from golfpack.kv.tuned import TUNED, tuned_cache
from golfpack.models.device import computing_threads, resolve_device
from golfpack.models.model import Model

# Tokens written where nobody says how many.
TOKENS = 256


@dataclass(frozen=True)
class GenerateOptions:
    """What is to be written.

    Attributes:
        prompt: a text; None where `prompt_ids` are given.
        prompt_ids: token ids instead.
        tokens: how many, at most; None for 256, or what the model's positions leave.
        sampling: how they are drawn.
        chat: the prompt is a user's turn, the text the answer to it.
        bos: begin with the token that begins a text, where the tokenizer has one.
        tokenizer: its file; None for the one inside the artifact, or beside the checkpoint.
        kv_cache: formats of the cache (see `kv.policy`), or "tuned": what `tune-cache` found; None
            for fp32.
        kv_residual: newest tokens kept in float16 beside codes; None for 128, or as tuned.
        cached: False computes every position again for each token.
        threads, device: what computes.
    """

    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    chat: bool = False
    bos: bool = True
    tokenizer: Path | None = None
    kv_cache: str | None = None
    kv_residual: int | None = None
    cached: bool = True
    threads: int = 1
    device: str = "cpu"
    argv: tuple[str, ...] = ()


def generate(
    model: Model, options: GenerateOptions, on_text: Callable[[str], None] | None = None
) -> GenerateReport:
    """Write text.

    Args:
        model: to write it.
        options: what is asked for.
        on_text: told each piece of text, or without a tokenizer each token id, as soon as it is there.

    Raises:
        UsageError: options that do not go together, no tokenizer, a sequence that is too long, a model
            that cannot be cached (with what to do), or logits that are not finite.
    """
    _check(options)
    module = model.module()
    prompt = _prompt(model, options)
    count = _count(model, prompt, options.tokens)
    # The last token is not read any more.
    positions = len(prompt.ids) + count - 1
    device = resolve_device(options.device).name
    with computing_threads(options.threads):
        module = module.to(device)
        cache = _cache(model, module, options, positions, device)
        written = _write(module, prompt, count, options, cache, on_text)
    layout = None if cache is None else cache.layout
    return GenerateReport(
        model=str(model.path),
        model_sha256=model.sha256,
        tokenizer=prompt.source,
        prompt=options.prompt,
        prompt_ids=list(prompt.ids),
        text=written.text,
        tokens=written.tokens,
        ended=written.ended,
        temperature=options.sampling.temperature,
        top_k=options.sampling.top_k,
        top_p=options.sampling.top_p,
        seed=options.sampling.seed,
        kv_cache=None if layout is None else told(layout),
        kv_residual=0 if layout is None else residual_of(layout),
        kv_bytes=0 if cache is None else cache.bytes,
        prompt_seconds=written.prompt_seconds,
        seconds=written.seconds,
        tokens_per_second=(len(written.tokens) - 1) / max(written.seconds, 1e-9),
        device=device.partition(":")[0],
        threads=options.threads,
        warnings=[*prompt.warnings, *_length_warnings(model, positions)],
        argv=list(options.argv),
    )


def _check(options: GenerateOptions) -> None:
    if options.prompt is None and options.prompt_ids is None:
        raise UsageError("what is the text to begin with?", "give --prompt or --prompt-ids")
    if options.prompt is not None and options.prompt_ids is not None:
        raise UsageError("--prompt and --prompt-ids are two beginnings", "give one of them")
    if options.chat and options.prompt is None:
        raise UsageError("a chat is about text", "give --prompt, or leave --chat out")
    if not options.cached and (options.kv_cache or options.kv_residual is not None):
        raise UsageError("--no-cache leaves nothing to store", "leave --kv-cache or --no-cache out")
    if options.kv_cache == TUNED and options.kv_residual is not None:
        raise UsageError("a tuned cache has its own residual", "leave --kv-residual out")
    check_counts(tokens=(options.tokens, 1), threads=(options.threads, 1))
    check_counts(kv_residual=(options.kv_residual, 0))


def _prompt(model: Model, options: GenerateOptions) -> Prompt:
    if options.prompt_ids is not None:
        return ids_prompt(model, options.prompt_ids, options.tokenizer)
    assert options.prompt is not None
    return text_prompt(model, options.prompt, options.tokenizer, chat=options.chat, bos=options.bos)


def _count(model: Model, prompt: Prompt, asked: int | None) -> int:
    """Tokens to write: as asked, or as many as fit."""
    longest = model.family.max_length(model.config)
    if longest is None:
        return asked or TOKENS
    room = longest + 1 - len(prompt.ids)
    if room < 1 or (asked or 1) > room:
        raise UsageError(
            f"this model has {longest} positions; the prompt has {len(prompt.ids)} tokens"
            + (f", and {asked} are to follow" if asked else ""),
            f"ask for --tokens {room} or fewer" if room > 0 else "shorten the prompt",
        )
    return asked or min(TOKENS, room)


def _length_warnings(model: Model, positions: int) -> list[str]:
    trained = model.config.get("seq_len")
    if isinstance(trained, int) and positions > trained:
        return [f"{positions} positions are beyond the {trained} that the model was trained on"]
    return []


def _cache(
    model: Model, module: nn.Module, options: GenerateOptions, positions: int, device: str
) -> StoredCache | None:
    if not options.cached:
        return None
    check_cached(model.family, model.config, positions)
    plain = observe(module)
    if options.kv_cache == TUNED:
        layout, plan = tuned_cache(model, plain, device, positions)
        return StoredCache(layout, positions, plan)
    residual = DEFAULT_RESIDUAL if options.kv_residual is None else options.kv_residual
    return StoredCache(stored_as(plain, options.kv_cache or DEFAULT, residual), positions)


@dataclass(frozen=True)
class _Written:
    tokens: list[int]
    text: str | None
    ended: Literal["length", "token", "text"]
    prompt_seconds: float
    seconds: float


def _write(
    module: nn.Module,
    prompt: Prompt,
    count: int,
    options: GenerateOptions,
    cache: StoredCache | None,
    on_text: Callable[[str], None] | None,
) -> _Written:
    """Draw tokens and tell their text until one of them, a text or their number ends it."""
    writer = _Writer(prompt, on_text)
    sampler = Sampler(options.sampling)
    pieces = None if prompt.tokenizer is None else prompt.tokenizer.vocab_size()
    ended: Literal["length", "token", "text"] = "length"
    began = first = time.perf_counter()
    for token in stream_tokens(module, prompt.ids, count, sampler, cache, pieces):
        if not writer.tokens:
            first = time.perf_counter()
        writer.take(token, stop=token in prompt.stops)
        if token in prompt.stops or writer.ended:
            ended = "text" if writer.ended else "token"
            break
    seconds = time.perf_counter() - first
    return _Written(writer.tokens, writer.finish(), ended, first - began, seconds)


class _Writer:
    """Keeps what was written, and tells it piece by piece."""

    def __init__(self, prompt: Prompt, on_text: Callable[[str], None] | None) -> None:
        self.tokens: list[int] = []
        self.parts: list[str] = []
        self.on_text = on_text
        self.text = None
        if prompt.tokenizer is not None:
            self.text = TextStream(prompt.tokenizer, prompt.ids, prompt.endings)

    @property
    def ended(self) -> bool:
        return self.text is not None and self.text.ended

    def take(self, token: int, stop: bool) -> None:
        """A token; of one that ends a text there is no text."""
        self.tokens.append(token)
        if self.text is None:
            self._tell(str(token) if len(self.tokens) == 1 else f" {token}")
        elif not stop:
            self._tell(self.text.push(token))

    def finish(self) -> str | None:
        """All text; None without a tokenizer."""
        if self.text is None:
            return None
        self._tell(self.text.flush())
        return "".join(self.parts)

    def _tell(self, piece: str) -> None:
        self.parts.append(piece)
        if piece and self.on_text is not None:
            self.on_text(piece)
