"""The documents of `golfpack eval` and `golfpack stats`."""

from dataclasses import dataclass, field
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class Spread:
    """How far figures move from one stretch of the text to another: standard errors, bits per byte.

    Attributes:
        stretches: consecutive parts of the stream, of like length.
        float_bpb: of the float model's bits per byte: what another text of this kind and length does.
        quant_gap: of the gap between both models on the same stretches.
    """

    stretches: int
    float_bpb: float
    quant_gap: float


@dataclass(frozen=True)
class EvalReport:
    """What `golfpack eval` found.

    Attributes:
        model: path of the checkpoint or artifact.
        model_sha256: of its bytes.
        model_bytes: its size.
        mode: how windows are laid: "plain" or "sliding"; or "stream", token by token by a KV cache.
        ttt, options: test-time training by name ("none" without), and every option of the run.
        window: tokens the model reads at most.
        val_loss: nats per target token.
        val_bpb: bits per byte, (sum of nll / ln 2) / scored_bytes; None without a tokenizer, as is all
            else that depends on the text behind the tokens.
        targets, scored_tokens: tokens to score, and those scored exactly once.
        scored_bytes: bytes of text that the scored tokens stand for.
        bytes_source: "table" (the tokenizer's), "text" (what the tokenizer dropped included), or the
            side-car shards that were counted instead.
        byte_audit: the byte table against decoded text.
        documents: of the stream; one where no BOS occurs.
        round_trip: documents whose tokens were decoded and encoded, and those that came back changed.
        source_round_trip: the same for raw text, when it was given.
        seconds: wall time of scoring and test-time training, all ranks.
        tokens_per_second: scored tokens per second of that time.
        device: "cpu" or "cuda".
        ranks: processes that shared the work.
        batch_tokens: tokens per forward pass.
        compiled: the mode of torch.compile, or None.
        peak_memory_bytes: torch's on CUDA (of this rank), else the process's largest resident set; 0
            where not known.
        legality: name, passed and measured of each check; None where they were not asked for.
        float_bpb, float_loss, quant_gap: of the float checkpoint on the same tokens, when one was given;
            quant_gap = val_bpb - float_bpb; float_loss in nats per token.
        spread: what is uncertain of these; None without a float checkpoint or a tokenizer, and for fewer
            than 512 targets.
        per_document, per_position: tables, when asked for.
        tokenizer_sha256: of the tokenizer's bytes.
    """

    model: str
    model_sha256: str
    model_bytes: int
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    tokens: str
    tokens_sha256: str
    tokenizer: str | None
    mode: str
    ttt: str
    window: int
    options: dict[str, Any]
    val_loss: float
    val_bpb: float | None
    targets: int
    scored_tokens: int
    scored_bytes: int | None
    bytes_source: str | None
    byte_audit: dict[str, int] | None
    documents: int
    round_trip: dict[str, int] | None
    source_round_trip: dict[str, int] | None
    seconds: float
    tokens_per_second: float
    device: str
    threads: int
    ranks: int
    batch_tokens: int
    compiled: str | None
    legality: list[dict[str, str | bool]] | None
    warnings: list[str]
    float_bpb: float | None = None
    quant_gap: float | None = None
    float_loss: float | None = None
    spread: Spread | None = None
    per_document: list[dict[str, float]] | None = None
    per_position: list[dict[str, float]] | None = None
    tokenizer_sha256: str | None = None
    argv: list[str] = field(default_factory=list)
    peak_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class StatsReport:
    """Runs of several seeds against a baseline, in both units.

    Attributes:
        runs: paths of the reports.
        val_loss: of each run, nats per token.
        val_bpb: of each run, bits per byte.
        baseline: as it was given.
        bytes_per_token: of the scored stream.
        nats, bpb: mean, std, baseline, margin, improvement and the two p-values in nats per token and
            in bits per byte.
        margin_nats, margin_bits_per_token, margin_bpb: the improvement the rule asks for; a nat is
            1 / ln 2 bits, and those of a token are spread over its bytes.
        significance: the largest p-value that counts.
        meets_rule: whether the margin is reached, at the level of `significance`.
    """

    runs: list[str]
    val_loss: list[float]
    val_bpb: list[float]
    baseline: str
    bytes_per_token: float
    nats: dict[str, float]
    bpb: dict[str, float]
    margin_nats: float
    margin_bits_per_token: float
    margin_bpb: float
    significance: float
    meets_rule: bool
    schema_version: int = SCHEMA_VERSION
