"""What a run writes to `train.jsonl`, one JSON object a line; `docs/run_reports.md` lists them all.

The first is a `meta` record. Fields that a clock fills (`time`, `seconds`, `tokens_per_second`,
`timing_ms`) differ from run to run; all others repeat to the bit where the run does.
"""

import dataclasses
import hashlib
import platform
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import generate
from golfpack.spec import ModelSpec
from golfpack.train.config import TrainConfig
from golfpack.train.loss import evaluating

LOG_VERSION = 1
SAMPLES = 3
SAMPLE_OPTIONS = {"temperature": 0.8, "top_k": 40, "tokens": 50}


class Stopwatch:
    """Where the time of a step goes, phase by phase, by the wall clock of the host.

    On CUDA the host only queues work, so phases would say little without waiting for each of them:
    there, only the whole step is timed.
    """

    def __init__(self, device: str) -> None:
        self.split = device == "cpu"
        self.start = self.last = time.perf_counter()
        self.phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Put the time since the last lap down to `phase`."""
        if self.split:
            now = time.perf_counter()
            self.phases[phase] = self.phases.get(phase, 0.0) + 1000.0 * (now - self.last)
            self.last = now

    def stop(self) -> dict[str, float]:
        """Milliseconds of each phase and of the whole `step`; the rest of it is "other"."""
        self.lap("other")
        end = self.last if self.split else time.perf_counter()
        return {"step": 1000.0 * (end - self.start), **self.phases}


def now() -> str:
    """The time, ISO 8601 with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def meta_record(
    config: TrainConfig,
    spec: ModelSpec,
    tokens: np.ndarray,
    val_tokens: np.ndarray | None,
    out_dir: Path,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The first record: what the run is.

    Args:
        about: what the caller knows: argv, versions, sources, tokenizer, preset; each may be missing.
    """
    return {
        "type": "meta",
        "golfpack_log": LOG_VERSION,
        "time": now(),
        "argv": list(about.get("argv", ())),
        "out_dir": str(out_dir),
        "versions": dict(about.get("versions", {})),
        "platform": platform.platform(),
        "device_name": "cpu" if config.device == "cpu" else torch.cuda.get_device_name(),
        "parameters": sum(int(np.prod(t.shape)) for t in spec.tensors),
        "model": dict(spec.config),
        "family": spec.family,
        "preset": about.get("preset"),
        "config": dataclasses.asdict(config),
        "data": {
            "sources": list(about.get("sources", ())),
            "tokenizer": about.get("tokenizer"),
            "tokens": int(tokens.size),
            "sha256": hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest(),
            "val_tokens": None if val_tokens is None else int(val_tokens.size),
        },
    }


def resume_record(config: TrainConfig, step: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run taken up again after `step` steps; `log_every` may have changed."""
    return {
        "type": "resume",
        "step": step,
        "time": now(),
        "argv": list(about.get("argv", ())),
        "log_every": config.log_every,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Writes a few texts now and then, to see what a model has learnt. Each starts a document.

    Attributes:
        tokenizer: of the training tokens.
        first: the token before each text: BOS, or the newline that ends a document where there is none.
        length: tokens of each text, the first included.
    """

    tokenizer: Tokenizer
    first: int
    length: int
    seed: int

    @staticmethod
    def of(config: TrainConfig, vocab_size: int, tokenizer: Tokenizer | None) -> "Sampler | None":
        """The sampler that `config` asks for, or None where it asks for none.

        Raises:
            UsageError: no tokenizer is known, or it is not that of the model.
        """
        if config.sample_every is None:
            return None
        if tokenizer is None:
            raise UsageError(
                "train.sample_every needs the tokenizer of the tokens", "add --tokenizer FILE.model"
            )
        first = _first_token(tokenizer)
        if tokenizer.vocab_size() != vocab_size or first is None:
            raise UsageError(
                f"a tokenizer of {tokenizer.vocab_size()} pieces, BOS {tokenizer.bos_id()}, cannot "
                f"write what a model of {vocab_size} tokens samples",
                "give the tokenizer the tokens were made with (it needs a BOS or a newline), or set "
                "train.sample_every=null",
            )
        length = min(1 + SAMPLE_OPTIONS["tokens"], config.seq_len)
        return Sampler(tokenizer, first, int(length), config.seed)

    def records(self, model: nn.Module, step: int) -> list[dict[str, Any]]:
        """Texts of the model at a step: a function of weights, seed and step alone."""
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + step)
        with evaluating(model):
            rows = generate(
                model, SAMPLES, self.length, self.first, SAMPLE_OPTIONS["temperature"], generator,
                top_k=int(SAMPLE_OPTIONS["top_k"]),
            )  # fmt: skip
        texts = [self._text(row[1:]) for row in rows.tolist()]
        options = {"options": SAMPLE_OPTIONS | {"tokens": self.length - 1}}
        return [
            {"type": "sample", "step": step, "prompt": "", "text": text, **options}
            for text in texts
        ]

    def _text(self, tokens: list[int]) -> str:
        """Up to where the next document would begin, where a token tells."""
        begins = self.first in tokens and self.first == self.tokenizer.bos_id()
        end = tokens.index(self.first) if begins else len(tokens)
        return self.tokenizer.Decode(tokens[:end])


def _first_token(tokenizer: Tokenizer) -> int | None:
    """BOS, or else the newline, where either is one token."""
    if tokenizer.bos_id() >= 0:
        return tokenizer.bos_id()
    try:
        newline = tokenizer.Encode("\n")
    except UsageError:  # ALPH's knows the characters of its text alone
        return None
    return newline[0] if len(newline) == 1 else None
