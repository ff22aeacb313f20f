"""Where rungs are trained, compiled and scored, each once: a rerun takes what is there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from golfpack.artifact import split_settings
from golfpack.base.convert import from_json
from golfpack.base.files import file_sha256
from golfpack.base.progress import Notify
from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
from golfpack.build.prepare import DEFAULT_RECIPE, code_bytes
from golfpack.build.run import build
from golfpack.compare.store import software
from golfpack.data.shards import tokens_sha256, write_shard
from golfpack.data.stream import is_text, read_stream
from golfpack.errors import BudgetError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.models.device import resolve_device
from golfpack.models.ranks import ALONE
from golfpack.packer.aim import Budget, Bytes, check_reach
from golfpack.packer.recipe import load_recipe, pass_tables
from golfpack.size.cells import Cells
from golfpack.size.options import VAL_FRACTION, SizeOptions
from golfpack.train.checkpoint import FINAL, LAST, settings_of
from golfpack.train.choose import Chosen, TrainOptions, choose
from golfpack.train.config import TrainConfig
from golfpack.train.schedule import tokens_seen
from golfpack.train.shapes import Shape, options_of, refuse_measures
from golfpack.train.sources import Data, DataOptions, read_data
from golfpack.train.train import about_run
from golfpack.train.trainer import complete_options, train

# Training text that a build may calibrate and refine on, where it has to be written out for that.
_MOST_TEXT = 1 << 24
_TRAINING = ("model.", "train.", "data.")


@dataclass(frozen=True)
class Trained:
    """A float model.

    Attributes:
        name: of its shape and seed: "6x256-seed0".
        parameters: weights, tied ones once.
        steps: optimiser steps taken.
        tokens: trained on, each time anew.
        seconds: wall time of training, over all resumptions.
        tokens_per_second: of training.
        final_loss: moving average of the training loss at the end, nats per token.
        checkpoint: its file in the folder.
        sha256: of that file.
        reused: taken from an earlier run.
    """

    name: str
    parameters: int
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    final_loss: float
    checkpoint: str
    sha256: str
    reused: bool = False


@dataclass(frozen=True)
class Compiled:
    """An artifact, or why there is none.

    Attributes:
        name: of the model, the recipe and the budget.
        refused: why nothing was built, if so.
        artifact: its file in the folder.
        sha256: of that file.
        bytes: of it.
        bits_per_weight: 8 bytes / parameters.
        kl: KL(float || artifact) on held-out calibration tokens, nats per token.
        seconds: of the build.
        warnings: of the build.
        reused: taken from an earlier run.
    """

    name: str
    refused: str | None = None
    artifact: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    bits_per_weight: float | None = None
    kl: float | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True)
class Scored:
    """A model on the held-out tokens.

    Attributes:
        bpb: bits per byte.
        loss: nats per token.
        tokens: scored.
        window: targets per window.
    """

    bpb: float
    loss: float
    tokens: int
    window: int


@dataclass(frozen=True, eq=False)
class Lab:
    """What all rungs share.

    Attributes:
        chosen: how models are trained.
        data: what on; `path` is the tokenizer's file.
        calib: file or glob of training tokens, for builds.
        held_out: file or glob that models are scored on.
        digests: of tokens to train on, of those held out, and of the tokenizer's file.
        building: settings of recipes.
        cells: what is there already.
        sizes: parameters of shapes that were asked for.
    """

    options: SizeOptions
    chosen: Chosen
    data: Data
    calib: str
    held_out: str
    digests: Mapping[str, str]
    building: tuple[str, ...]
    cells: Cells
    sizes: dict[Shape, int] = field(default_factory=dict)

    def model_options(self, shape: Shape) -> dict[str, Any]:
        """All that a shape and the settings say of a model."""
        assert self.data.tokenizer is not None  # `open_lab` saw to it
        told = {"vocab_size": self.data.tokenizer.vocab_size(), **self.chosen.shape}
        found = {**told, **options_of(self.chosen.family, shape)}
        return complete_options(self.chosen.family, found, self.chosen.config.seq_len)

    def parameters(self, shape: Shape) -> int:
        """Weights of a shape, tied ones once."""
        if shape not in self.sizes:
            self.sizes[shape] = self.chosen.family.spec(self.model_options(shape)).numel
        return self.sizes[shape]

    def check_reach(self, shape: Shape, budget: int) -> None:
        """Raise BudgetError where bytes for the artifact are less than the recipe has on offer."""
        recipe = load_recipe(self.options.recipe or DEFAULT_RECIPE, self.building)
        spec = self.chosen.family.spec(self.model_options(shape))
        check_reach(recipe.search.floor_bpw, spec, Budget(budget))

    def trained(self, shape: Shape, seed: int, notify: Notify) -> Trained:
        """Train a shape, go on where that was interrupted, or take the model that is there.

        Raises:
            UsageError: unusable settings, or a loss that is not finite.
        """
        family, config = self.chosen.family, replace(self.chosen.config, seed=seed)
        model = self.model_options(shape)
        spec, name = family.spec(model), f"{shape.name}-seed{seed}"
        inputs = _training_inputs(settings_of(config, spec, self.data.tokens), config)
        known = self.cells.get(name, inputs)
        if known is not None:
            found = from_json(Trained, known, name)
            found = replace(found, checkpoint=self._whole(found.checkpoint))
            if _is_there(Path(found.checkpoint), found.sha256):
                return replace(found, reused=True)
        folder = self.cells.folder / "runs" / f"{name}@{self.cells.key(inputs)}"
        begun = (folder / LAST).exists()
        if not begun:
            (folder / FINAL).unlink(missing_ok=True)  # of a model that is not as it was
        result = train(
            config, model, self.data.tokens, folder, family=family, resume=begun,
            progress=lambda done, total, note: notify("train", done, total, f"{name} {note}"),
            about=about_run(self.chosen.data.sources, self.data.path, self.options.argv),
        )  # fmt: skip
        tokens = tokens_seen(config, result.steps)
        found = Trained(
            name, spec.numel, result.steps, tokens, result.seconds, tokens / result.seconds,
            result.final_loss, str(result.checkpoint), file_sha256(result.checkpoint),
        )  # fmt: skip
        kept = replace(found, checkpoint=self._part(found.checkpoint))
        self.cells.put(name, inputs, asdict(kept))
        (folder / LAST).unlink()  # the optimiser's state is larger than the model
        return found

    def compiled(
        self,
        model: Trained,
        notify: Notify,
        *,
        recipe: str | None = None,
        budget: str | None = None,
        code: Sequence[Path] | None = None,
        refine: int | Literal["auto"] | None = None,
        refine_on: Literal["kl", "labels"] = "kl",
    ) -> Compiled:
        """Build a model, or take the artifact that is there; one that nothing fits is refused.

        Args:
            recipe, budget, code, refine: None for the options'.
            refine_on: what codes are trained for, as `build` has it.

        Raises:
            UsageError: bad input.
        """
        o = self.options
        recipe, budget = recipe or o.recipe or DEFAULT_RECIPE, budget or o.budget
        code = o.code if code is None else tuple(code)
        refine = o.refine if refine is None else refine
        name = f"{model.name}-{Path(recipe).stem}-{budget.replace(' ', '')}"
        build_options = BuildOptions(
            inputs=Inputs(
                checkpoint=Path(model.checkpoint), calib=self.calib, calib_tokens=o.calib_tokens,
                tokenizer=self.data.path, code=code, settings=self.building,
            ),
            goal=Goal(
                aim=Bytes(budget), recipe=recipe, refine=refine, refine_on=refine_on, blind=True
            ),
            machine=Machine(threads=o.threads, device=o.device, cache=o.cache),
            force=True,  # the name has everything that it depends on
            argv=o.argv,
        )  # fmt: skip
        inputs = self._build_inputs(model, build_options, recipe)
        known = self.cells.get(name, inputs)
        if known is not None:
            found = from_json(Compiled, known, name)
            if found.artifact is None:
                return replace(found, reused=True)
            found = replace(found, artifact=self._whole(found.artifact))
            if _is_there(Path(str(found.artifact)), str(found.sha256)):
                return replace(found, reused=True)
        folder = self.cells.folder / "artifacts"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}@{self.cells.key(inputs)}.golf"
        try:
            report = build(replace(build_options, output=path), notify)
        except BudgetError as e:
            found = Compiled(name, refused=e.message)
        else:
            found = Compiled(
                name, None, str(path), report.artifact_sha256, report.artifact_bytes,
                report.bits_per_weight, report.measured_kl, sum(report.seconds.values()),
                tuple(report.warnings),
            )  # fmt: skip
        kept = replace(found, artifact=found.artifact and self._part(found.artifact))
        self.cells.put(name, inputs, asdict(kept))
        return found

    def scored(self, name: str, path: str, sha256: str, notify: Notify) -> Scored:
        """Score a model on the held-out tokens, or take the score that is there.

        Args:
            name: of the model.
            path, sha256: of its file.

        Raises:
            UsageError: bad input. CorruptError: the byte audit failed.
        """
        o = self.options
        inputs = {
            "model": sha256, "held out": self.digests["held out"], "text": is_text(self.held_out),
            "tokenizer": self.digests["tokenizer"], "window": o.window,
            "device": self.chosen.config.device, "software": software(),
        }  # fmt: skip
        name = f"{name}-scored"
        known = self.cells.get(name, inputs)
        if known is not None:
            return from_json(Scored, known, name)
        # Every model runs the same code in the same mode: whether that is legal is not for each to ask.
        report = evaluate(
            EvalOptions(
                Path(path), self.held_out, self.data.path, window=o.window, limit=o.limit,
                threads=o.threads, device=o.device, legality=False,
            ),
            notify,
        )  # fmt: skip
        assert report.val_bpb is not None  # there is a tokenizer
        found = Scored(report.val_bpb, report.val_loss, report.scored_tokens, report.window)
        self.cells.put(name, inputs, asdict(found))
        return found

    def _part(self, path: str) -> str:
        """A path as cells have it: the folder may be moved."""
        return Path(path).relative_to(self.cells.folder).as_posix()

    def _whole(self, path: str) -> str:
        return str(self.cells.folder / path)

    def _build_inputs(self, model: Trained, options: BuildOptions, recipe: str) -> dict[str, Any]:
        given = load_recipe(recipe, self.building)
        aim = options.goal.aim
        assert isinstance(aim, Bytes)
        return {
            "checkpoint": model.sha256,
            "recipe": [given.calibration, pass_tables(given), vars(given.search)],
            "budget": aim.total(model.parameters),
            "code": code_bytes(options.inputs.code),
            "calibration": [self.digests["training"], options.inputs.calib_tokens],
            "refine": [options.goal.refine, options.goal.refine_on],
            "device": self.chosen.config.device,
            "software": software(),
        }


def open_lab(options: SizeOptions, notify: Notify) -> Lab:
    """Read the data, and refuse what cannot be trained or scored.

    Raises:
        UsageError: bad input.
    """
    training = tuple(s for s in options.settings if s.startswith(_TRAINING))
    building = tuple(s for s in options.settings if s not in training)
    chosen = choose(
        TrainOptions(
            family=options.family, data=options.data, steps=options.steps, minutes=options.minutes,
            threads=options.threads, device=options.device, settings=training,
        )
    )  # fmt: skip
    refuse_measures(chosen.family, split_settings(training)[0])
    chosen = replace(chosen, shape=split_settings(training)[0], data=_with_held_out(chosen.data))
    chosen.data.check()
    load_recipe(options.recipe or DEFAULT_RECIPE, building)
    code_bytes(options.code)
    cells = Cells(options.out)
    data = read_data(chosen.data, _tokenizers(cells, chosen.data), True, ALONE, notify)
    if data.tokenizer is None or data.path is None:
        raise UsageError(
            "models of different sizes are held to bits per byte, which takes a tokenizer",
            "add --tokenizer FILE.model",
        )
    assert data.val_tokens is not None  # `_with_held_out` saw to it
    training_sha = tokens_sha256(data.tokens)
    calib = _file(cells, "train", chosen.data.tokens, data.tokens[:_MOST_TEXT], chosen.data)
    held_out = _file(cells, "held_out", chosen.data.val_tokens, data.val_tokens, None)
    read = read_stream(held_out, data.tokenizer, options.limit)
    if np.array_equal(read, data.tokens[: len(read)]):
        raise UsageError(
            f"{held_out} is what models are trained on", "hold out other tokens: --val-tokens"
        )
    digests = {
        "training": training_sha, "held out": tokens_sha256(read),
        "tokenizer": file_sha256(data.path),
    }  # fmt: skip
    return Lab(options, chosen, data, calib, held_out, digests, building, cells)


def _with_held_out(data: DataOptions) -> DataOptions:
    """The data, with the last twentieth held out where nobody said what is."""
    if data.val_tokens is None and data.val_fraction is None:
        return replace(data, val_fraction=VAL_FRACTION)
    return data


def _tokenizers(cells: Cells, data: DataOptions) -> Path:
    """Folder of a tokenizer trained on these texts, which a rerun takes from there."""
    if data.train_vocab is None:
        return cells.folder
    for path in data.text:
        if not path.is_file():
            raise UsageError(f"there is no text {path}", "check the path")
    texts = [file_sha256(p) for p in data.text]
    key = cells.key({"texts": texts, "pieces": data.train_vocab, "kind": data.tokenizer_kind})
    folder = cells.folder / f"tokenizer@{key}"
    folder.mkdir(exist_ok=True)
    return folder


def _file(
    cells: Cells, what: str, given: str | None, tokens: np.ndarray, data: DataOptions | None
) -> str:
    """Where these tokens can be read: where they came from, or a shard of them in the folder.

    Args:
        data: of training tokens, which are not all of `given` where their end is held out.
    """
    whole = data is None or (data.val_fraction is None and not data.text)
    if given is not None and whole:
        return given
    path = cells.folder / f"{what}@{tokens_sha256(tokens)[:12]}.bin"
    if not path.exists():
        write_shard(path, tokens)
    return str(path)


def _training_inputs(settings: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """What a model depends on; as minutes are the budget, on what works on it, too."""
    if config.minutes is None:
        return settings
    return settings | {"threads": config.threads, "device": resolve_device(config.device).name}


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256
