"""The Python API: what the commands do, as functions with values in place of texts.

`import golfpack` offers these names and loads this module when one of them is first used. Every function
returns the document that its command prints under --json (docs/reports.md), as a dataclass. Nothing here
prints; `notify` is told how far the work is. Errors are `golfpack.errors.GolfpackError`s with a hint.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from golfpack.api_training import size as size
from golfpack.api_training import train as train
from golfpack.api_values import AnyPath, path_of, path_or_none, settings_of
from golfpack.artifact import model_of, open_model
from golfpack.base.convert import make, to_type, unknown_option
from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS, KL_TOKENS
from golfpack.base.progress import Notify, silent
from golfpack.build.options import NAMES, read_options
from golfpack.build.plan import plan as run_plan
from golfpack.build.plan_report import PlanReport
from golfpack.build.planfile import read_plan
from golfpack.build.rebuild import rebuild_options
from golfpack.build.replay import read_replay
from golfpack.build.report import BuildReport
from golfpack.build.run import build as run_build
from golfpack.compare.compare import compare as run_compare
from golfpack.compare.report import CompareReport
from golfpack.compare.rows import CompareOptions
from golfpack.errors import UsageError
from golfpack.eval.evaluate import evaluate as run_evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.eval.report import EvalReport
from golfpack.generate.report import GenerateReport
from golfpack.generate.run import GenerateOptions
from golfpack.generate.run import generate as run_generate
from golfpack.generate.sample import Sampling
from golfpack.inspect.inspect import InspectReport
from golfpack.inspect.inspect import inspect as run_inspect
from golfpack.inspect.verify import VerifyReport
from golfpack.models.base import Family
from golfpack.models.choose import choose_family
from golfpack.models.model import Model
from golfpack.models.restore import for_transformers, restored
from golfpack.packer.format.loader import load as load_artifact
from golfpack.probe.probe import ROUNDS, ProbeReport
from golfpack.probe.probe import probe as run_probe
from golfpack.submission.verify_any import Asked, Scores
from golfpack.submission.verify_any import verify_any as run_verify


def build(
    checkpoint: AnyPath,
    *,
    budget: str | int | None = None,
    target_kl: float | None = None,
    target_bpb: float | None = None,
    lossless: bool = False,
    output: AnyPath | None = None,
    recipe: AnyPath | None = None,
    plan: AnyPath | None = None,
    calib: AnyPath | None = None,
    calib_tokens: int = CALIB_TOKENS,
    data_free: bool = False,
    tokenizer: AnyPath | None = None,
    with_tokenizer: bool = False,
    code: Sequence[AnyPath] = (),
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
    recalibrate: bool = False,
    refine: int | Literal["auto"] = 0,
    refine_on: Literal["kl", "labels"] = "kl",
    blind: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    force: bool = False,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    cache: bool = True,
    notify: Notify = silent,
) -> BuildReport:
    """Compile a checkpoint into a `.golf` artifact, as `golfpack build` does.

    Exactly one of `budget`, `target_kl`, `target_bpb` and `lossless` says how large or how good it is to
    be; a plan brings a budget of its own.

    Args:
        checkpoint: the float model.
        budget: "16MB", "3.5bpw" (bits per weight), or bytes.
        target_kl: the smallest file within this KL, nats per token.
        target_bpb: the same in bits per byte; needs a tokenizer.
        lossless: every float exactly.
        output: the `.golf` to write; None for the checkpoint's name in the current folder.
        recipe: name or .toml file.
        plan: a plan file to replay.
        calib: token shard or text; None lets the model write its own.
        calib_tokens: how many of its tokens.
        data_free: no calibration at all.
        tokenizer: of calibration text, and for losses in bits per byte.
        with_tokenizer: put it into the artifact; without `tokenizer`, the one beside the checkpoint.
        code: files that ship beside the artifact and count towards the budget.
        settings: "pass.option" or "model.option" -> value; or such texts as `--set` takes.
        model: a family by name, or "FILE.py:CLASS", whose file is run.
        model_args: the class's keyword arguments, "key=value" each.
        recalibrate, refine, refine_on: as the command has them, as blind, strict, dry_run, force, seed,
            threads and device.
        cache: keep statistics, and text the model wrote, for the next build.
        notify: told how far the work is: stage, done, total, note.

    Raises:
        UsageError: bad input. BudgetError: nothing fits. StrictError: a warning, under `strict`.
    """
    table = {
        "checkpoint": checkpoint, "budget": budget, "target_kl": target_kl,
        "target_bpb": target_bpb, "lossless": lossless, "output": output, "recipe": recipe,
        "plan": None if plan is None else read_plan(path_of(plan, "plan")), "calib": calib,
        "calib_tokens": calib_tokens, "data_free": data_free, "tokenizer": tokenizer,
        "with_tokenizer": with_tokenizer, "code": code,
        "settings": settings_of(settings), "model": model, "model_args": model_args,
        "recalibrate": recalibrate, "refine": refine, "refine_on": refine_on,
        "blind": blind, "strict": strict, "dry_run": dry_run, "force": force, "seed": seed,
        "threads": threads, "device": device, "cache": cache,
    }  # fmt: skip
    return run_build(read_options(table), notify)


def rebuild(
    report: AnyPath,
    checkpoint: AnyPath | None = None,
    *,
    notify: Notify = silent,
    **options: Any,
) -> BuildReport:
    """Repeat the build of a report, as `golfpack build --from` does.

    Args:
        report: what that build wrote, `NAME.report.json`.
        checkpoint: where it is now; None for where it was.
        notify: as of `build`.
        options: as `build` has them, each in place of the report's.

    Raises:
        UsageError: bad input, or one that is not what it was. BudgetError: nothing fits.
        StrictError: a warning, under `strict`.
    """
    for name in options:
        if name not in NAMES:
            raise unknown_option(name, sorted(NAMES), "rebuild")
    table = dict(options)
    if checkpoint is not None:
        table["checkpoint"] = checkpoint
    if "settings" in table:
        table["settings"] = settings_of(table["settings"])
    if table.get("plan") is not None:
        table["plan"] = read_plan(path_of(table["plan"], "plan"))
    replay = read_replay(path_of(report, "report"))
    return run_build(rebuild_options(table, replay, frozenset(table)), notify)


def plan(
    checkpoint: AnyPath,
    *budgets: str | int,
    output: AnyPath | None = None,
    notify: Notify = silent,
    **options: Any,
) -> PlanReport:
    """What budgets would give, by prediction from calibration alone, as `golfpack plan` does.

    Args:
        checkpoint: the float model.
        budgets: as `build` takes them; none for the range in which people build.
        output: a file to write the plan of one budget to, for `build(plan=...)`.
        notify: as of `build`.
        options: recipe, calib, calib_tokens, data_free, tokenizer, with_tokenizer, code, settings,
            model, model_args, seed, threads, device and cache, as `build` has them.

    Raises:
        UsageError: bad input. BudgetError: less than the recipe's coarsest steps make.
    """
    table = {"checkpoint": checkpoint, "output": output, **options}
    if "settings" in table:
        table["settings"] = settings_of(table["settings"])
    sizes = to_type(tuple[str | int, ...], budgets, "budgets")
    return run_plan(read_options(table, "a plan"), sizes, notify)


def evaluate(
    path: AnyPath,
    tokens: AnyPath,
    tokenizer: AnyPath | None = None,
    *,
    mode: str = "plain",
    window: int | None = None,
    stride: int | None = None,
    ttt: AnyPath = "none",
    kv_cache: str | None = None,
    kv_residual: int | None = None,
    limit: int | None = None,
    baseline: AnyPath | None = None,
    byte_counts: AnyPath | None = None,
    source_text: AnyPath | None = None,
    per_document: bool = False,
    per_position: bool = False,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
    threads: int = 1,
    device: str = "cpu",
    batch_tokens: int | None = None,
    compile_mode: str | None = None,
    legality: bool = True,
    strict: bool = False,
    notify: Notify = silent,
) -> EvalReport:
    """Bits per byte of a checkpoint or an artifact, as `golfpack eval` measures them.

    Args:
        path: checkpoint or `.golf` file.
        tokens: shard or text file, or a glob of shards.
        tokenizer: whose tokens they are; None for that of the checkpoint's folder, or, where there is
            none, for scores in nats per token.
        mode: "plain", "sliding", or "stream": token by token through a KV cache.
        window: tokens per window; None for the model's trained length.
        stride: of sliding windows; None for 64.
        ttt: "none", or the name or .toml file of test-time training.
        kv_cache, kv_residual: of "stream", the cache's formats; None for fp32.
        limit: tokens read; targets are one fewer.
        baseline: float checkpoint to score too, for the quant gap.
        byte_counts: glob of side-car shards that count the bytes of each token.
        source_text: the tokens' raw text, to count documents that the tokenizer changes.
        per_document, per_position: put these tables into the report.
        settings: "model.option" of a checkpoint or "ttt.option" -> value, or texts.
        model, model_args: as `build` has them.
        batch_tokens: tokens per forward pass; None for what suits the device.
        compile_mode: of torch.compile, such as "default"; None leaves it out.
        threads, device, legality, strict, notify: as the command has them.

    Raises:
        UsageError: bad input. CorruptError: a damaged artifact, or an audit failed.
        StrictError: a warning, under `strict`.
    """
    table = {
        "model": path, "tokens": tokens, "tokenizer": tokenizer, "mode": mode, "window": window,
        "stride": stride, "ttt": ttt, "limit": limit, "settings": settings_of(settings),
        "baseline": baseline, "threads": threads, "device": device, "legality": legality,
        "strict": strict, "family": choose_family(model, model_args), "kv_cache": kv_cache,
        "kv_residual": kv_residual, "byte_counts": byte_counts, "source_text": source_text,
        "per_document": per_document, "per_position": per_position, "batch_tokens": batch_tokens,
        "compiled": compile_mode,
    }  # fmt: skip
    return run_evaluate(make(EvalOptions, table, "evaluate"), notify)


def inspect(
    path: AnyPath,
    *,
    against: AnyPath | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
) -> InspectReport:
    """What an artifact or a checkpoint holds, tensor by tensor, as `golfpack inspect` shows it.

    Args:
        path: the file.
        against: the float checkpoint of an artifact, for its errors.
        settings, model, model_args: as `build` has them.

    Raises:
        UsageError: bad input. CorruptError: a damaged artifact.
    """
    family = choose_family(model, model_args)
    other = path_or_none(against, "against")
    return run_inspect(path_of(path, "path"), other, settings_of(settings), family)


def probe(
    checkpoint: AnyPath,
    tokens: AnyPath,
    tokenizer: AnyPath | None = None,
    *,
    limit: int = ROUNDS[-1],
    output: AnyPath | None = None,
    force: bool = False,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
    notify: Notify = silent,
) -> ProbeReport:
    """Find the options that a checkpoint's shapes do not tell, by its own loss on text.

    Args:
        checkpoint: the float model.
        tokens: a token shard, a glob of them, or text, of the model's own domain.
        tokenizer: for text, and for options that depend on it.
        limit: tokens to score at most.
        output: the config to write; `<stem>.config.json` beside the checkpoint unless told.
        force: replace a config that says something else.
        settings, model, model_args, notify: as `build` has them.

    Raises:
        UsageError: bad input, a model that text tells nothing of, or an option that was told and that
            text contradicts.
    """
    family = choose_family(model, model_args)
    return run_probe(
        path_of(checkpoint, "checkpoint"), to_type(str, tokens, "tokens"),
        path_or_none(tokenizer, "tokenizer"), settings_of(settings), family,
        limit=to_type(int, limit, "limit"), output=path_or_none(output, "output"), force=force,
        notify=notify,
    )  # fmt: skip


def verify(
    path: AnyPath,
    *,
    report: AnyPath | None = None,
    against: AnyPath | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
    tokens: AnyPath | None = None,
    tokenizer: AnyPath | None = None,
    limit: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    threads: int = 1,
    notify: Notify = silent,
) -> VerifyReport:
    """Whether an artifact is whole, decodes, and is what its report says: a check after the other.

    A submission's folder is counted, and its script run with nothing but what counts. What is damaged
    raises nothing: `passed` of what is returned is False then.

    Args:
        path: the `.golf` file, or the folder of a submission.
        report: an artifact's build report.
        against: the checkpoint it was built from.
        settings, model, model_args, notify: as `build` has them.
        tokens, tokenizer: what a submission's script scores; None runs nothing.
        limit, window, stride, threads: of that score, as `evaluate` has them.

    Raises:
        UsageError: a file that is not there or is something else, or options of the other kind.
    """
    told = Asked(
        report=path_or_none(report, "report"), against=path_or_none(against, "against"),
        settings=settings_of(settings), family=choose_family(model, model_args),
    )  # fmt: skip
    table = {
        "tokens": tokens, "tokenizer": tokenizer, "limit": limit, "window": window, "stride": stride,
        "threads": threads,
    }  # fmt: skip
    return run_verify(path_of(path, "path"), told, make(Scores, table, "verify"), notify)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A `.golf` file in memory.

    Attributes:
        path: the file.
        sha256: of its bytes, hex.
        family: the model family's name.
        config: the model's options, complete; changing them changes no model.
    """

    path: Path
    sha256: str
    family: str
    config: dict[str, Any]
    _model: Model

    def weights(self) -> dict[str, np.ndarray]:
        """Name -> float32 array, read-only: every tensor once, as the model's own modules name it."""
        return {name: _read_only(w) for name, w in self._model.weights.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Name -> float32 tensor, as the model's own modules name them.

        Tied tensors are there under every name that they have, and share their memory.
        """
        state = {name: torch.tensor(w) for name, w in self._model.weights.items()}
        aliases = self._model.family.aliases
        if aliases is not None:
            state |= {alias: state[name] for alias, name in aliases(self.config).items()}
        return state

    def source_state_dict(self, dtype: str = "float32") -> dict[str, torch.Tensor]:
        """Name -> tensor as the checkpoint had them: its names, layouts and groups.

        Args:
            dtype: "float32", "bfloat16", "float16", or "source" for the checkpoint's.
        """
        return restored(self._model, dtype)

    def to_transformers(self, dtype: str = "source") -> Any:
        """The model as an object of transformers, such as a LlamaForCausalLM, in eval mode.

        Args:
            dtype: as `source_state_dict` has it.

        Raises:
            UsageError: transformers is not installed, or has no class for such models.
        """
        config, state = for_transformers(self._model, dtype)
        try:
            import transformers
        except ImportError as error:
            raise UsageError("transformers is not installed", "pip install transformers") from error
        made = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(made)
        kind = type(model)
        return kind.from_pretrained(None, config=made, state_dict=state, dtype=made.dtype)

    def generate(
        self,
        prompt: str | Sequence[int] | np.ndarray | torch.Tensor,
        *,
        on_text: Callable[[str], None] | None = None,
        **options: Any,
    ) -> GenerateReport:
        """Write text that follows a prompt; as the function `generate`, with its options."""
        return _generated(self._model, prompt, on_text, options)

    def module(self) -> nn.Module:
        """The runnable model: tokens (B, T) int64 -> logits (B, T, V) float32, on the CPU, in eval mode.

        Raises:
            UsageError: a model without a network (family "tensors"), or of a class that was not named.
        """
        return self._model.module()


def load(path: AnyPath, *, model: str | None = None, model_args: Sequence[str] = ()) -> Artifact:
    """Read an artifact; every digest and bound is checked.

    Args:
        path: the `.golf` file.
        model, model_args: the user's class, for an artifact of one; its file is run.

    Raises:
        UsageError: no such file, or `model` is not what the artifact holds. CorruptError: not an
        artifact, damaged, or its config and tensors are of no model.
    """
    path = path_of(path, "path")
    family: Family | None = choose_family(model, model_args)
    artifact = load_artifact(path)
    found = model_of(artifact, path, family)
    return Artifact(path, found.sha256, found.family.name, deepcopy(found.config), found)


def generate(
    path: AnyPath,
    prompt: str | Sequence[int] | np.ndarray | torch.Tensor,
    *,
    tokens: int | None = None,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    bos: bool = True,
    tokenizer: AnyPath | None = None,
    kv_cache: str | None = None,
    kv_residual: int | None = None,
    cached: bool = True,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    model_args: Sequence[str] = (),
    threads: int = 1,
    device: str = "cpu",
    on_text: Callable[[str], None] | None = None,
) -> GenerateReport:
    """Write text that follows a prompt, as `golfpack generate` does.

    Args:
        path: checkpoint or `.golf` file.
        prompt: a text, or token ids (n,).
        tokens: to write at most; None for 256, or as many as the model has positions for.
        temperature, top_k, top_p: how tokens are drawn; a temperature of 0 takes the likeliest.
        seed: the same one writes the same text; the caller's random state is not touched.
        chat: the prompt is a user's turn, the text the answer to it.
        bos: begin with the tokenizer's token for that, where it has one.
        tokenizer: its file; None for the one inside the artifact, or beside the checkpoint.
        kv_cache, kv_residual: formats of the KV cache; None for fp32.
        cached: False computes every position again for each token.
        settings, model, model_args: as `build` has them.
        threads, device: as the command has them.
        on_text: told each piece of text as soon as it is there.

    Raises:
        UsageError: bad input, or a model that cannot be cached. CorruptError: a damaged artifact.
    """
    family = choose_family(model, model_args)
    beside = path_or_none(tokenizer, "tokenizer")
    found = open_model(path_of(path, "path"), settings_of(settings), family, beside)
    options = {
        "tokens": tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed,
        "chat": chat, "bos": bos, "tokenizer": beside, "kv_cache": kv_cache,
        "kv_residual": kv_residual, "cached": cached, "threads": threads, "device": device,
    }  # fmt: skip
    return _generated(found, prompt, on_text, options)


def _generated(
    model: Model,
    prompt: str | Sequence[int] | np.ndarray | torch.Tensor,
    on_text: Callable[[str], None] | None,
    options: Mapping[str, Any],
) -> GenerateReport:
    table = dict(options)
    how = {k: table.pop(k) for k in ("temperature", "top_k", "top_p", "seed") if k in table}
    if isinstance(prompt, np.ndarray | torch.Tensor):
        prompt = prompt.tolist()
    table["prompt" if isinstance(prompt, str) else "prompt_ids"] = prompt
    table["sampling"] = make(Sampling, how, "sampling")
    return run_generate(model, make(GenerateOptions, table, "generate"), on_text)


def compare(
    checkpoint: AnyPath,
    *,
    recipes: Sequence[AnyPath],
    budgets: Sequence[str | int],
    tokens: AnyPath,
    tokenizer: AnyPath | None = None,
    calib: AnyPath | None = None,
    calib_tokens: int = CALIB_TOKENS,
    limit: int = EVAL_TOKENS,
    window: int | None = None,
    kl_tokens: int = KL_TOKENS,
    out: AnyPath | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    code: Sequence[AnyPath] = (),
    seed: int = 0,
    threads: int = 1,
    strict: bool = False,
    cache: bool = True,
    notify: Notify = silent,
    on_row: Callable[[CompareReport], None] | None = None,
) -> CompareReport:
    """Recipes x budgets, built and evaluated: one resumable table, as `golfpack compare` makes it.

    Args:
        checkpoint: the float model.
        recipes: names or .toml files.
        budgets: as `build` takes them.
        tokens, tokenizer: to evaluate on; no build sees them. The tokenizer is that of the checkpoint's
            folder where none is given.
        limit: tokens read of them.
        window: targets per window; None for the model's trained length.
        kl_tokens: of the same tokens, to measure the KL to the float model on.
        out: folder for artifacts and finished rows; None for the checkpoint's name with .compare.
        calib, calib_tokens, settings, code, seed, threads, strict, cache, notify: as `build` has them.
        on_row: called with the report so far, after each row.

    Raises:
        UsageError: bad input. CorruptError: the byte audit failed.
    """
    sizes = to_type(tuple[str | int, ...], budgets, "budgets")
    table = {
        "checkpoint": checkpoint, "recipes": recipes, "budgets": tuple(map(str, sizes)),
        "tokens": tokens, "tokenizer": tokenizer, "limit": limit, "window": window,
        "kl_tokens": kl_tokens, "out": out, "settings": settings_of(settings), "calib": calib,
        "calib_tokens": calib_tokens, "code": code, "seed": seed, "threads": threads,
        "strict": strict, "cache": cache,
    }  # fmt: skip
    return run_compare(make(CompareOptions, table, "compare"), notify, on_row)


def _read_only(w: np.ndarray) -> np.ndarray:
    view = w.view()
    view.flags.writeable = False
    return view
