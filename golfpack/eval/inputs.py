"""What `golfpack eval` reads: the models, the tokens, and how many bytes they stand for."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golfpack.artifact import open_pair
from golfpack.base.convert import check_counts
from golfpack.base.files import file_sha256
from golfpack.base.progress import Notify, silent
from golfpack.data.belongs import refuse_other_tokenizer
from golfpack.data.shards import tokens_sha256
from golfpack.data.stream import is_text, read_counted
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import Tokenizer, load_tokenizer, read_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteAudit, ByteTable, audit
from golfpack.eval.choose import TttRecipe, checked_window, choose_mode, load_ttt
from golfpack.eval.documents import document_bounds
from golfpack.eval.modes import Mode, Stream
from golfpack.eval.roundtrip import RoundTrip, text_round_trip, token_round_trip
from golfpack.eval.sidecar import find_sidecars, read_byte_counts
from golfpack.eval.streamed import Streamed
from golfpack.kv.cache import check_cached, observe
from golfpack.kv.layout import DEFAULT_RESIDUAL
from golfpack.kv.policy import DEFAULT, stored_as
from golfpack.models.base import Family
from golfpack.models.device import check_compile_mode
from golfpack.models.folder import find_tokenizer
from golfpack.models.model import Model
from golfpack.probe.probe import refuse_wrong_assumptions, windows


@dataclass(frozen=True)
class EvalOptions:
    """What `golfpack eval` is asked to do.

    Attributes:
        model: checkpoint or `.golf` file.
        tokens: shard, or a glob of shards.
        tokenizer: theirs; None for the one inside the artifact, or in the checkpoint's folder, and where
            there is none, for scores in nats per token alone.
        window: tokens per window; None for the model's trained length.
        stride: of sliding windows; None for 64.
        ttt: "none", the name of a file of options in `golfpack/ttt`, or a .toml file.
        limit: tokens read; targets are one fewer.
        settings: "model.option=value" of the checkpoints (an artifact carries its own), and
            "ttt.option=value".
        baseline: float checkpoint to score too, for the quantization gap.
        byte_counts: glob of side-car shards that replace the byte table.
        source_text: raw documents the tokens were made from, to count those the tokenizer changes.
        threads: CPU threads, over all ranks of this machine.
        device: "auto", "cpu" or "cuda".
        batch_tokens: tokens per forward pass; None for what suits the device.
        compiled: the mode of torch.compile, or None; not with test-time training.
        legality: check the run's legality.
        per_document, per_position: put these tables in the report.
        strict: turn warnings, such as a failed legality check, into errors.
        family: what `--model` says the models are (see `choose_family`); None detects it.
        kv_cache, kv_residual: formats of the cache that mode "stream" reads through (see `kv.policy`);
            None for fp32, and for 128 tokens.
    """

    model: Path
    tokens: str
    tokenizer: Path | None = None
    mode: str = "plain"
    window: int | None = None
    stride: int | None = None
    ttt: str = "none"
    limit: int | None = None
    settings: tuple[str, ...] = ()
    baseline: Path | None = None
    byte_counts: str | None = None
    source_text: Path | None = None
    threads: int = 1
    device: str = "cpu"
    batch_tokens: int | None = None
    compiled: str | None = None
    legality: bool = True
    per_document: bool = False
    per_position: bool = False
    strict: bool = False
    argv: list[str] = field(default_factory=list)
    family: Family | None = None
    kv_cache: str | None = None
    kv_residual: int | None = None

    def __post_init__(self) -> None:
        check_counts(window=(self.window, 1), stride=(self.stride, 1), limit=(self.limit, 2))
        check_counts(threads=(self.threads, 1), batch_tokens=(self.batch_tokens, 1))
        check_counts(kv_residual=(self.kv_residual, 0))

    @property
    def raw_text(self) -> Path | None:
        """The documents before any tokenizer, where they are known."""
        if self.source_text is None and is_text(self.tokens):
            return Path(self.tokens)
        return self.source_text


@dataclass(frozen=True, eq=False)
class EvalInputs:
    """Everything read and checked, before anything is scored.

    Attributes:
        tokens: (n,) uint16, or uint32 where one is beyond 65,535.
        documents: from `document_bounds`.
        counted: what is known of the text behind the tokens; None without a tokenizer.
    """

    loaded: Model
    float_model: Model | None
    mode: Mode
    ttt: TttRecipe | None
    tokens: np.ndarray
    documents: np.ndarray
    counted: "Counted | None"
    warnings: tuple[str, ...]

    @property
    def target_bytes(self) -> np.ndarray | None:
        """(n - 1,) bytes of each target, where they are known."""
        return None if self.counted is None else self.counted.target_bytes

    @property
    def stream(self) -> Stream:
        return Stream.of(self.tokens, self.documents)

    @property
    def tokens_sha256(self) -> str:
        """See `shards.tokens_sha256`."""
        return tokens_sha256(self.tokens)


@dataclass(frozen=True, eq=False)
class Counted:
    """What a tokenizer tells of the text behind the tokens.

    Attributes:
        tokenizer: where it is.
        tokenizer_sha256: of its bytes.
        target_bytes: (n - 1,) bytes of each target.
        bytes_source: of what they were counted: "table", "text", or the side-car shards.
        byte_audit: the byte table against decoded text.
        round_trip: whether the tokens of documents come back.
        source_round_trip: whether the documents do, where the text itself is known.
    """

    tokenizer: str
    tokenizer_sha256: str
    target_bytes: np.ndarray
    bytes_source: str
    byte_audit: ByteAudit
    round_trip: RoundTrip
    source_round_trip: RoundTrip | None


def read_inputs(options: EvalOptions, notify: Notify = silent) -> EvalInputs:
    """Read and check what an evaluation needs.

    Raises:
        UsageError: bad input. CorruptError: a damaged artifact, or the byte audit failed.
    """
    for_ttt = [s.removeprefix("ttt.") for s in options.settings if s.startswith("ttt.")]
    for_model = tuple(s for s in options.settings if not s.startswith("ttt."))
    if bad := next((s for s in for_ttt if "=" not in s), None):
        raise UsageError(f"--set 'ttt.{bad}' has no value", "use --set KEY=VALUE")
    if options.window is not None and any(s.startswith("window=") for s in for_ttt):
        raise UsageError("--window and ttt.window say the same thing twice", "give one of them")
    ttt = load_ttt(options.ttt, for_ttt)
    notify("read", 0, 4, options.model.name)
    path = options.tokenizer or _tokenizer_beside(options)
    loaded, float_model = open_pair(
        options.model, options.baseline, for_model, options.family, path
    )
    mode = _mode(options, ttt, loaded)
    found = _tokenizer(options, path, loaded)
    if found is None:
        return _uncounted(options, loaded, float_model, mode, ttt, notify)
    sp, where, sha256 = found
    table = ByteTable.from_tokenizer(sp, loaded.config["vocab_size"])
    notify("read", 1, 4, "tokens")
    tokens, text_bytes = read_counted(options.tokens, sp, options.limit)
    _check_tokens(options, tokens)
    counts, bytes_source = table.count(tokens), "table"
    if text_bytes is not None:
        counts, bytes_source = text_bytes[1:], "text"
    refuse_other_tokenizer(sp, tokens, where)
    refuse_wrong_assumptions(loaded, windows(tokens))
    if options.byte_counts is not None:
        counts = read_byte_counts(
            options.byte_counts, tokens, sp.bos_id(), whole=options.limit is None
        )
        bytes_source = options.byte_counts
    documents = document_bounds(tokens, sp.bos_id())
    notify("read", 2, 4, f"audit of {len(tokens):,} tokens' bytes")
    audited = audit(sp, table, tokens)
    notify("read", 3, 4, f"round trip of {len(documents) - 1:,} documents")
    round_trip = token_round_trip(sp, tokens, documents)
    source = None
    if options.raw_text is not None:
        source = text_round_trip(sp, read_documents([options.raw_text]))
    warnings = [
        *_byte_warnings(options, bytes_source, audited, round_trip, source),
        *table.warnings,
        *_document_warnings(ttt, audited.documents),
        *mode.idle(documents),
    ]
    counted = Counted(where, sha256, counts, bytes_source, audited, round_trip, source)
    return EvalInputs(loaded, float_model, mode, ttt, tokens, documents, counted, tuple(warnings))


def _tokenizer(
    options: EvalOptions, path: Path | None, loaded: Model
) -> tuple[Tokenizer, str, str] | None:
    """The tokenizer, where it is, and the sha256 of its bytes: that of `path`, unless one is inside."""
    if options.tokenizer is None and loaded.tokenizer is not None:
        name, data = loaded.tokenizer
        where = f"{options.model} ({name} inside)"
        return read_tokenizer(data, Path(name)), where, hashlib.sha256(data).hexdigest()
    return None if path is None else (load_tokenizer(path), str(path), file_sha256(path))


def _tokenizer_beside(options: EvalOptions) -> Path | None:
    """The tokenizer in the folder of the model, or of the float checkpoint it is held against."""
    found = find_tokenizer(options.model)
    if found is None and options.baseline is not None:
        found = find_tokenizer(options.baseline)
    return found


def _uncounted(
    options: EvalOptions,
    loaded: Model,
    float_model: Model | None,
    mode: Mode,
    ttt: TttRecipe | None,
    notify: Notify,
) -> EvalInputs:
    """The inputs of an evaluation in nats per token: nothing is known of the text behind the tokens.

    Raises:
        UsageError: text or side-cars, which need a tokenizer, or training by documents, whose
            beginnings it tells.
    """
    add = "add --tokenizer FILE"
    for name, given in (
        ("--byte-counts", options.byte_counts),
        ("--source-text", options.source_text),
    ):
        if given is not None:
            raise UsageError(f"{name} is for bits per byte, which need a tokenizer", add)
    if ttt is not None and ttt.kind != "sgd":
        raise UsageError(
            f"--ttt {ttt.name} trains by documents, and only a tokenizer tells where they begin",
            add,
        )
    notify("read", 1, 4, "tokens")
    tokens, _ = read_counted(options.tokens, None, options.limit)
    _check_tokens(options, tokens)
    vocab_size = loaded.config["vocab_size"]
    if int(tokens.max()) >= vocab_size:
        at = int((tokens >= vocab_size).argmax())
        raise UsageError(
            f"token {int(tokens[at])} at position {at} is outside the model's vocabulary of "
            f"{vocab_size}",
            "the tokens were made with another tokenizer",
        )
    refuse_wrong_assumptions(loaded, windows(tokens))
    documents = document_bounds(tokens, -1)
    return EvalInputs(loaded, float_model, mode, ttt, tokens, documents, None, ())


def _check_tokens(options: EvalOptions, tokens: np.ndarray) -> None:
    if len(tokens) < 2:
        raise UsageError(
            f"{options.tokens} holds {len(tokens)} tokens: there is none to score",
            "give a stream of at least 2 tokens",
        )


def _mode(options: EvalOptions, ttt: TttRecipe | None, loaded: Model) -> Mode:
    check_compile_mode(options.compiled)
    if options.compiled and ttt is not None:
        raise UsageError(
            f"--compile cannot be used with --ttt {ttt.name}: it is for scoring alone",
            "leave --compile out",
        )
    if options.mode == "stream" and ttt is None and options.stride is None:
        return _streamed(options, loaded)
    cached = options.kv_cache is not None or options.kv_residual is not None
    if cached and options.mode != "stream":
        raise UsageError(f"{options.mode} windows have no KV cache", "add --mode stream")
    return choose_mode(
        options.mode, options.window, options.stride, ttt,
        trained_length=int(loaded.config.get("seq_len", 1024)),
        longest=loaded.family.max_length(loaded.config),
    )  # fmt: skip


def _streamed(options: EvalOptions, loaded: Model) -> Streamed:
    if options.compiled:
        raise UsageError("--compile cannot be used with --mode stream", "leave --compile out")
    window = checked_window(
        options.window, int(loaded.config.get("seq_len", 1024)),
        loaded.family.max_length(loaded.config),
    )  # fmt: skip
    check_cached(loaded.family, loaded.config, window)
    residual = DEFAULT_RESIDUAL if options.kv_residual is None else options.kv_residual
    layout = stored_as(observe(loaded.module()), options.kv_cache or DEFAULT, residual)
    return Streamed(window, layout)


def _byte_warnings(
    options: EvalOptions,
    bytes_source: str,
    audited: ByteAudit,
    tokens: RoundTrip,
    source: RoundTrip | None,
) -> list[str]:
    warnings = []
    if audited.unk_tokens:
        warnings.append(
            f"{audited.unk_tokens:,} unknown tokens count 0 bytes: this tokenizer loses text"
        )
    if tokens.lossy:
        warnings.append(
            f"{tokens.lossy:,} of {tokens.documents:,} documents do not survive decoding and encoding"
        )
    if source is not None and source.lossy:
        warnings.append(
            f"the tokenizer changes {source.lossy:,} of the {source.documents:,} documents of "
            f"{options.raw_text}: "
            + (
                "what it drops counts as bytes, and nothing predicts it"
                if bytes_source == "text"
                else "bits per byte are of the changed text"
            )
        )
    if options.byte_counts is None and (unused := find_sidecars(options.tokens)):
        warnings.append(f"byte-count shards such as {unused[0]} are not used; --byte-counts does")
    return warnings


def _document_warnings(ttt: TttRecipe | None, bos: int) -> list[str]:
    if ttt is None or ttt.kind == "sgd" or bos:
        return []
    return ["no BOS token occurs: the stream is treated as one document"]
