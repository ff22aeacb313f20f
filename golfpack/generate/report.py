"""The document of `golfpack generate`."""

from dataclasses import dataclass, field
from typing import Literal

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class GenerateReport:
    """What a model wrote.

    Attributes:
        model: path of the checkpoint or artifact.
        model_sha256: of its bytes.
        tokenizer: its file, "inside" for that of the artifact, or None where token ids were given.
        prompt: as it was given; None for token ids.
        prompt_ids: the tokens that the model read, a BOS included.
        text: what follows the prompt; None without a tokenizer.
        tokens: of that text.
        ended: "length" (as many tokens as asked for), "token" (one that ends a text) or "text" (in a
            chat, a marker that ends the turn).
        temperature, top_k, top_p, seed: how tokens were drawn.
        kv_cache: format of every tensor, or None where every position was computed again.
        kv_residual: newest tokens kept in float16 besides.
        kv_bytes: of the buffers that were allocated, for prompt and tokens; 0 without a cache.
        prompt_seconds: for the prompt, up to the first token.
        seconds: for all tokens after the first.
        tokens_per_second: of those.
        device: "cpu" or "cuda".
        warnings: what the reader should know of this text.
    """

    model: str
    model_sha256: str
    tokenizer: str | None
    prompt: str | None
    prompt_ids: list[int]
    text: str | None
    tokens: list[int]
    ended: Literal["length", "token", "text"]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    kv_cache: str | None
    kv_residual: int
    kv_bytes: int
    prompt_seconds: float
    seconds: float
    tokens_per_second: float
    device: str
    threads: int
    warnings: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
