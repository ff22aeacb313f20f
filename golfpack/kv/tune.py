"""`golfpack tune-cache`: which formats of a cache are fastest within a budget and limits of quality."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from golfpack.base.convert import check_counts, check_seed
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.calib.sources import self_generated
from golfpack.data.shards import tokens_sha256
from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.kv.cache import StoredCache, check_cached, observe
from golfpack.kv.layout import DEFAULT_RESIDUAL, PLAIN_BYTES, CacheLayout, tuning_budget
from golfpack.kv.plans import Plan, plans
from golfpack.kv.policy import residual_of, stored_as, told
from golfpack.kv.quality import Limits, Quality, cache_quality
from golfpack.kv.search import Tried, choose_plan, climb
from golfpack.kv.tune_report import Judged, TriedPlan, TriedPolicy, TuneReport
from golfpack.kv.tuned import (
    FoundPlan,
    FoundPolicy,
    Results,
    plan_key,
    policy_key,
    read_results,
    results_file,
    write_results,
)
from golfpack.models.device import computing_threads, resolve_device
from golfpack.models.model import Model

# Teacher-forced: so many sequences, read at once up to here, then token by token.
SEQUENCES, PREFILL, DECODED = 4, 128, 32
# Tokens that fill a cache at once before anything is timed.
_FILL = 512


@dataclass(frozen=True)
class TuneOptions:
    """What is tuned.

    Attributes:
        context: tokens in the cache when a token is timed; None for the trained length.
        base: the policy that the climb begins with.
        residual: its residual.
        memory: a size such as "16MB"; None for the base without its residual, and 10% more.
        tokens: shard or text that quality is measured on; None lets the model write it.
        tokenizer: of text.
        limits: of quality.
        again: tune even where there is an answer.
        warm_up, timed: tokens before, and of, each timing.
    """

    context: int | None = None
    base: str = "q4_0"
    residual: int = DEFAULT_RESIDUAL
    memory: str | None = None
    tokens: str | None = None
    tokenizer: Path | None = None
    limits: Limits = field(default_factory=Limits)
    again: bool = False
    warm_up: int = 2
    timed: int = 8
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_counts(context=(self.context, 1), residual=(self.residual, 0))
        check_counts(threads=(self.threads, 1))
        check_seed(self.seed)


# (policy, plan) -> seconds of one token.
Timer = Callable[[CacheLayout, Plan], float]


def tune(
    model: Model, options: TuneOptions, notify: Notify = silent, timer: Timer | None = None
) -> TuneReport:
    """Find a cache's formats and the plan to read them by, and keep the answer.

    Args:
        model: whose cache it is.
        options: what is tuned.
        notify: progress.
        timer: in place of a real one.

    Raises:
        UsageError: a model that cannot be cached, or options that do not fit it.
    """
    device = resolve_device(options.device).name
    module = model.module().to(device)
    context = _context(model, options)
    check_cached(model.family, model.config, context + options.warm_up + options.timed)
    with computing_threads(options.threads):
        return _Tuning(model, module, device, context, options, notify, timer).run()


def _context(model: Model, options: TuneOptions) -> int:
    """Tokens in the cache. Raises UsageError for more than the model has positions."""
    longest = model.family.max_length(model.config)
    extra = options.warm_up + options.timed
    asked = options.context
    if asked is None:
        trained = int(model.config.get("seq_len", 1024))
        asked = trained if longest is None else min(trained, longest - extra)
    if asked < 1 or (longest is not None and asked + extra > longest):
        raise UsageError(
            f"a context of {asked} tokens and {extra} to time do not fit this model's {longest} "
            "positions",
            "give a smaller --context",
        )
    return asked


class _Tuning:
    """One run."""

    def __init__(
        self,
        model: Model,
        module: nn.Module,
        device: str,
        context: int,
        options: TuneOptions,
        notify: Notify,
        timer: Timer | None,
    ) -> None:
        self.model, self.module, self.device = model, module, device
        self.context, self.options, self.notify = context, options, notify
        self.plain = observe(module)
        self.base = stored_as(self.plain, options.base, options.residual)
        self.fp16 = stored_as(self.plain, "fp16")
        size = tuning_budget(self.base, context)
        self.budget = size if options.memory is None else parse_size(options.memory, 1)
        if stored_as(self.plain, options.base, 0).bytes(context) > self.budget:
            raise UsageError(
                f"a cache of {context:,} tokens takes more than {self.budget:,} bytes under "
                f"{options.base}, even without a residual",
                "give more --memory, a smaller --context or a smaller --kv-cache to begin with",
            )
        self.timer = timer or _RealTimer(module, context, options)
        self.timed = 0

    def run(self) -> TuneReport:
        path = results_file()
        results, warning = read_results(path)
        warnings = [] if warning is None else [warning]
        key = policy_key(self.model, self.device, self.context, self._asked())
        stored = results.cache_policies.get(key)
        if stored is not None and stored.context == self.context and not self.options.again:
            return self._again(stored, results, warnings)
        tried = climb(self.base, lambda t: self._seconds(t, Plan()), self.context, self.budget)
        layout, judged = self._judged(tried)
        if layout.bytes(self.context) > self.budget:
            warnings.append(
                f"no policy that was found keeps the limits of quality: fp16 stands, "
                f"{layout.bytes(self.context) - self.budget:,} bytes over the budget"
            )
        plan, times = self._plan(layout, results)
        seconds = times.get(plan) or next((t.seconds for t in tried if t.layout == layout), None)
        if seconds is None:  # fp16, which the climb did not meet
            seconds = self._seconds(layout, plan)
        quality = judged[-1].quality
        found = FoundPolicy(told(layout), residual_of(layout), self.context, seconds, quality.kl)
        results = results.with_policy(key, found)
        if times:
            made = FoundPlan(plan.reader, plan.positions, times[plan])
            results = results.with_plan(plan_key(self.device, self.context, layout), made)
        write_results(path, results)
        return self._report(layout, plan, seconds, quality, tried, judged, times, warnings)

    def _asked(self) -> dict[str, Any]:
        """What an answer depends on besides the model, its length and the device."""
        options = self.options
        return {
            "base": told(self.base), "residual": residual_of(self.base), "budget": self.budget,
            "limits": "/".join(f"{v:g}" for v in vars(options.limits).values()),
            "tokens": self._told_tokens(), "threads": options.threads,
        }  # fmt: skip

    def _told_tokens(self) -> str:
        """What quality is measured on, for answers to be found again by."""
        if self.options.tokens is None:
            return f"own, seed {self.options.seed}"
        return tokens_sha256(self._stream(self.options.tokens))

    def _stream(self, tokens: str) -> np.ndarray:
        path = self.options.tokenizer
        return read_stream(tokens, None if path is None else load_tokenizer(path))

    def _again(self, stored: FoundPolicy, results: Results, warnings: list[str]) -> TuneReport:
        layout = stored_as(self.plain, stored.policy, stored.residual)
        kept = results.decode_plans.get(plan_key(self.device, self.context, layout))
        plan = Plan() if kept is None else kept.plan
        return self._report(layout, plan, stored.seconds, None, [], [], {}, warnings, cached=True)

    def _seconds(self, layout: CacheLayout, plan: Plan) -> float:
        self.timed += 1
        self.notify("time", self.timed, 0, f"{told(layout)}, {residual_of(layout)} in fp16")
        return self.timer(layout, plan)

    def _judged(self, tried: list[Tried]) -> tuple[CacheLayout, list[Judged]]:
        """The last step of the climb that keeps the limits of quality; fp16 where none does."""
        tokens, prefill = self._tokens()
        judged: list[Judged] = []
        path = [t.layout for t in tried if t.taken]
        for layout in [*reversed(path), self.fp16]:
            self.notify("quality", len(judged), 0, told(layout))
            quality = cache_quality(self.module, tokens, layout, self.fp16, prefill)
            broken = self.options.limits.broken(quality)
            judged.append(Judged(told(layout), residual_of(layout), quality, broken))
            if broken is None:
                return layout, judged
        raise UsageError(
            "not even an fp16 cache keeps the limits against itself: the logits are not finite",
            "check the model's weights",
        )

    def _tokens(self) -> tuple[torch.Tensor, int]:
        """Tokens (B, T + 1) to measure on, and how many of each sequence are read at once."""
        longest = self.model.family.max_length(self.model.config)
        length = min(PREFILL + DECODED, longest or PREFILL + DECODED)
        prefill = length * PREFILL // (PREFILL + DECODED)
        options, vocab = self.options, self.model.config["vocab_size"]
        self.notify("quality", 0, 0, "tokens")
        if options.tokens is None:
            count = min(length + 1, longest or length + 1)
            rows = self_generated(self.module, SEQUENCES, count, options.seed).sequences
        else:
            stream = self._stream(options.tokens).astype(np.int64)
            if len(stream) < SEQUENCES * (length + 1) or int(stream.max()) >= vocab:
                raise UsageError(
                    f"{options.tokens} has {len(stream):,} tokens, of ids up to {int(stream.max())}; "
                    f"it takes {SEQUENCES * (length + 1):,} below {vocab}",
                    "give more of the model's own tokens, or leave --tokens out",
                )
            starts = np.linspace(0, len(stream) - length - 1, SEQUENCES).astype(np.int64)
            rows = np.stack([stream[s : s + length + 1] for s in starts])
        return torch.from_numpy(rows).to(self.device), prefill

    def _plan(self, layout: CacheLayout, results: Results) -> tuple[Plan, dict[Plan, float]]:
        """How codes are read fastest; nothing to choose where there are none."""
        if all(t.format in PLAIN_BYTES for t in layout.tensors):
            return Plan(), {}
        kept = results.decode_plans.get(plan_key(self.device, self.context, layout))
        in_use = Plan() if kept is None else kept.plan
        return choose_plan(plans(self.device), lambda p: self._seconds(layout, p), in_use)

    def _report(
        self,
        layout: CacheLayout,
        plan: Plan,
        seconds: float,
        quality: Quality | None,
        tried: list[Tried],
        judged: list[Judged],
        times: dict[Plan, float],
        warnings: list[str],
        *,
        cached: bool = False,
    ) -> TuneReport:
        return TuneReport(
            model=str(self.model.path),
            model_sha256=self.model.sha256,
            context=self.context,
            budget_bytes=self.budget,
            policy=told(layout),
            residual=residual_of(layout),
            bytes=layout.bytes(self.context),
            fp16_bytes=self.fp16.bytes(self.context),
            seconds=seconds,
            quality=quality,
            plan=plan.name,
            policies=[
                TriedPolicy(told(t.layout), residual_of(t.layout), t.bytes, t.seconds, t.taken)
                for t in tried
            ],
            judged=judged,
            plans=[TriedPlan(p.name, s) for p, s in times.items()],
            cached=cached,
            results=str(results_file()),
            device=self.device,
            threads=self.options.threads,
            warnings=warnings,
        )


class _RealTimer:
    """Fills a cache, then times tokens: the fastest counts, as other work only slows."""

    def __init__(self, module: nn.Module, context: int, options: TuneOptions) -> None:
        self.module, self.context, self.options = module, context, options
        count = context + options.warm_up + options.timed
        generator = torch.Generator().manual_seed(options.seed)
        device = next(module.parameters()).device
        # Any ids do: what is timed does not depend on them, and 0 and 1 are in every vocabulary.
        self.tokens = torch.randint(2, (1, count), generator=generator).to(device)

    @torch.no_grad()
    def __call__(self, layout: CacheLayout, plan: Plan) -> float:
        cache = StoredCache(layout, self.tokens.shape[1], plan)
        for part in self.tokens[:, : self.context].split(_FILL, dim=1):
            self.module(part, cache=cache)
        times = []
        for at in range(self.context, self.tokens.shape[1]):
            began = time.perf_counter()
            self.module(self.tokens[:, at : at + 1], cache=cache)
            if self.tokens.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[self.options.warm_up :])
