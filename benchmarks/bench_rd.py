"""Recipe `rd` against a hand-tuned grid of the record's pipeline, on one checkpoint in one run.

    python benchmarks/bench_rd.py CKPT --calib SHARD --tokens VAL_SHARD [--kl-tokens 12288]
        [--calib-tokens 32768] [--threads 2] [--out DIR] [--budget 2bpw 2.4bpw ...]
        [--rival "NAME: RECIPE [refine=TOKENS] [PASS.OPTION=VALUE ...]"]... [--tokenizer MODEL] [--peers]

The grid is GPTQ + SDClip + brotli-11 (record of 2026-04-05) over every pair of a k for the int6
matrices and a k for the int8 embedding, which is quantized with its Hessian as a head alone, as the
record does, or with that of both its roles. It is made of golfpack's own passes and calibration: damp
0.01, activation order, vectors in float16, brotli in the better of both orders. `rd` is built with the
recipe as it ships, for several budgets, and so is every rival: other options, other recipes, refined.
Bytes are whole artifacts. KL(float || quantized), nats per token, is measured on VAL_SHARD, which no
build sees, and which may be of another domain than what is calibrated and trained on: any text or shard.
--peers adds other projects' quantizers (peers.py): every matrix by one of their formats, the embedding
by the same or by their finest, vectors in float16.

brotli-11 takes seconds per megabyte, so the grid's sizes are first estimated by entropy (order 0 per
matrix), and only points that may lie on the front of bytes and KL are coded, of both Hessians the
better; others are marked ~.
Writes bench_rd.md, .json and .png (with matplotlib) to DIR, beside the artifacts of `rd`.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from peers import Rounding, Stored, float16_size, installed, roundings
from rd_fronts import Point, front, save
from torch import nn

from golfpack.artifact import open_model
from golfpack.base.progress import silent
from golfpack.build.options import BuildOptions, read_options
from golfpack.build.prepare import CALIB_LENGTH, prepare, read_model
from golfpack.build.run import build
from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import BudgetError
from golfpack.eval.divergence import mean_kl
from golfpack.packer.format.tensors import PackedTensor, QTensor, Raw
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.rate import entropy
from golfpack.packer.state import PackState, run_passes
from golfpack.spec import CalibStats, as_matrix

MATRIX_KS = (6.0, 8.0, 10.0, 12.85, 16.0, 20.0)
EMBED_KS = (3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
EMBED_ROLES = ("embed", "head")
RD_BUDGETS = ("2bpw", "2.4bpw", "2.8bpw", "3.2bpw", "3.7bpw", "4.2bpw", "4.8bpw")
# How far brotli's size may move against the entropy estimate from one grid point to another.
MARGIN = 0.02
HessianOf = Literal["two-role", "head"]
Tensors = Mapping[str, PackedTensor]


class Remembered(nn.Module):
    """A model's logits on known sequences, worked out once: the grid compares with them every time."""

    def __init__(self, model: nn.Module, sequences: np.ndarray) -> None:
        super().__init__()
        with torch.inference_mode():
            self.logits = {row.tobytes(): model(torch.from_numpy(row)[None]) for row in sequences}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (1, T, V) of one of the sequences, (1, T)."""
        return self.logits[tokens[0].numpy().tobytes()]


class Bench:
    """One checkpoint, calibrated once, and the validation tokens to measure it on."""

    def __init__(self, options: BuildOptions, tokens: str, kl_tokens: int) -> None:
        self.options = options
        self.checkpoint, recipe = read_model(options)
        prepared = prepare(self.checkpoint, recipe, options, silent)
        self.state = prepared.state(1, silent)
        tokenizer = options.inputs.tokenizer
        vocabulary = None if tokenizer is None else load_tokenizer(tokenizer)
        stream = np.asarray(read_stream(tokens, vocabulary, kl_tokens), np.int64)
        self.sequences = stream[: len(stream) // CALIB_LENGTH * CALIB_LENGTH]
        self.sequences = self.sequences.reshape(-1, CALIB_LENGTH)
        self.reference = Remembered(self._model(self.checkpoint.weights), self.sequences)

    @property
    def numel(self) -> int:
        """Parameters of the checkpoint."""
        return self.checkpoint.spec.numel

    def _model(self, weights: Mapping[str, np.ndarray]) -> nn.Module:
        return self.checkpoint.module(weights)

    def kl(self, weights: Mapping[str, np.ndarray]) -> float:
        """KL(float || weights) on the validation tokens, nats per token."""
        return mean_kl(
            self.reference, self._model(weights), self.sequences, self.options.machine.threads
        )

    def kl_of_tensors(self, tensors: Tensors) -> float:
        """The same of tensors that are not yet an artifact."""
        shapes = {t.name: t.shape for t in self.checkpoint.spec.tensors}
        return self.kl({n: t.dequantize().reshape(shapes[n]) for n, t in tensors.items()})


def head_only(stats: CalibStats) -> CalibStats:
    """Statistics in which a tied embedding is a head alone."""
    uses = {}
    for name, found in stats.uses.items():
        linear = tuple(u for u in found if u.kind == "linear")
        uses[name] = linear or found
    return replace(stats, uses=uses)


def sdclip_grid(bench: Bench) -> list[tuple[str, Tensors]]:
    """Every pair of a matrix k and an embedding k, as (setting, tensors): the record's quantizer."""
    assert bench.state.stats is not None
    matrices, embeddings = {}, {}
    names = {t.name for t in bench.checkpoint.spec.tensors if t.role in EMBED_ROLES}
    hessians: dict[HessianOf, CalibStats] = {
        "two-role": bench.state.stats, "head": head_only(bench.state.stats),
    }  # fmt: skip
    for which, stats in hessians.items():
        ready = _sensed(replace(bench.state, stats=stats))
        for k in EMBED_KS:
            done = _rounded(ready, 12.85, k)
            embeddings[k, which] = {n: t for n, t in done.items() if n in names}
        if which == "two-role":
            for k in MATRIX_KS:
                matrices[k] = _rounded(ready, k, 20.0)
    return [
        (f"k={k:g}, embedding k={ek:g} {which}", {**rest, **embedding})
        for k, rest in matrices.items()
        for (ek, which), embedding in embeddings.items()
    ]


def _policy(matrix_k: float, embed_k: float) -> Policy:
    return Policy((
        {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
        {"roles": list(EMBED_ROLES), "scheme": "int", "bits": 8, "clip": {"id": "sd", "k": embed_k}},
        {"scheme": "int", "bits": 6, "clip": {"id": "sd", "k": matrix_k}},
    ))  # fmt: skip


def _sensed(state: PackState) -> PackState:
    return run_passes([_policy(12.85, 20.0), Sense(damp=0.01, order="falling")], state)


def _rounded(ready: PackState, matrix_k: float, embed_k: float) -> Tensors:
    return run_passes([_policy(matrix_k, embed_k), Clip(), Steps(), Round()], ready).tensors


def estimated_size(tensors: Tensors) -> int:
    """Bytes by order-0 entropy per matrix, float16 row steps and kept floats."""
    total = 0.0
    for t in tensors.values():
        if isinstance(t, Raw):
            total += t.values.nbytes
        else:
            assert isinstance(t, QTensor)
            total += entropy(t.codes) * t.codes.size / 8 + 2 * len(t.codes)
    return round(total)


def coded_size(bench: Bench, tensors: Tensors) -> int:
    """Bytes of the whole artifact under brotli-11, in the better of both orders."""
    state = replace(bench.state, tensors=tensors)
    blobs = [Encode("brotli", order=order).run(state).blob for order in ("row", "col")]
    return min(len(blob) for blob in blobs if blob is not None)


def sdclip_points(bench: Bench) -> list[Point]:
    """The grid; points that may be on its front have exact sizes."""
    grid = dict(sdclip_grid(bench))
    points = {}
    for i, (setting, tensors) in enumerate(grid.items(), 1):
        _progress(f"KL of grid point {i} of {len(grid)}")
        kl = bench.kl_of_tensors(tensors)
        points[setting] = Point("sdclip", setting, estimated_size(tensors), False, kl)
    promising = [p.setting for p in front(_better_hessians(points.values()), MARGIN)]
    _progress(f"brotli-11 of {len(promising)} grid points")
    with ThreadPoolExecutor(bench.options.machine.threads) as pool:  # brotli lets go of the GIL
        sizes = pool.map(lambda s: coded_size(bench, grid[s]), promising)
        for setting, size in zip(promising, sizes, strict=True):
            points[setting] = replace(points[setting], size=size, exact=True)
    return sorted(points.values(), key=lambda p: p.size)


def _better_hessians(points: Iterable[Point]) -> list[Point]:
    """Of points that differ in the embedding's Hessian alone, and so hardly in size, the better."""
    best: dict[str, Point] = {}
    for p in points:
        ks = p.setting.rpartition(" ")[0]
        if ks not in best or p.kl < best[ks].kl:
            best[ks] = p
    return list(best.values())


@dataclass(frozen=True)
class Rival:
    """What is built for every budget: a name, a recipe, and how."""

    name: str
    recipe: str = "rd"
    refine: str = "0"
    settings: tuple[str, ...] = ()


def read_rival(told: str) -> Rival:
    """A rival as `--rival` tells it."""
    name, _, how = told.partition(":")
    recipe, *rest = how.split()
    refine = [word.removeprefix("refine=") for word in rest if word.startswith("refine=")]
    settings = tuple(word for word in rest if not word.startswith("refine="))
    return Rival(name.strip(), recipe, refine[0] if refine else "0", settings)


def built_points(bench: Bench, rival: Rival, budgets: Iterable[str], folder: Path) -> list[Point]:
    """Real builds, one per budget, opened again from their files; refused budgets are left out."""
    points = []
    for budget in budgets:
        _progress(f"{rival.name} at {budget}")
        output = folder / f"{rival.name.replace(' ', '-')}-{budget}.golf"
        options = bench.options.changed(
            budget=budget, output=output, recipe=rival.recipe, settings=rival.settings, force=True,
            refine=rival.refine if rival.refine == "auto" else int(rival.refine),
        )  # fmt: skip
        try:
            report = build(options)
        except BudgetError as e:
            print(f"{rival.name} at {budget}: {e}", file=sys.stderr)
            continue
        kl = bench.kl(open_model(output).weights)
        points.append(Point(rival.name, budget, report.artifact_bytes, True, kl))
    return points


def peer_points(bench: Bench) -> list[Point]:
    """Every installed peer's formats, with the embedding alike or in its finest one."""
    there, missing = installed()
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    spec, weights = bench.checkpoint.spec, bench.checkpoint.weights
    vectors = {t.name: weights[t.name] for t in spec.tensors if t.role == "vector"}
    left = float16_size(vectors.values())
    kept = {n: v.astype(np.float16).astype(np.float32) for n, v in vectors.items()}
    points = []
    for peer in there:
        _progress(peer)
        done = {setting: _by_peer(bench, rounding) for setting, rounding in roundings(peer)}
        *_, finest = done
        for setting, embedding in [(s, e) for s in done for e in dict.fromkeys((s, finest))]:
            tensors = {
                t.name: done[embedding if t.role in EMBED_ROLES else setting][t.name]
                for t in spec.tensors
                if t.role != "vector"
            }
            size = left + sum(t.size for t in tensors.values())
            shaped = {n: t.weights.reshape(weights[n].shape) for n, t in tensors.items()}
            name = setting if embedding == setting else f"{setting}, embedding {embedding}"
            points.append(Point(peer, name, size, True, bench.kl(kept | shaped)))
    return points


def _by_peer(bench: Bench, rounding: Rounding) -> dict[str, Stored]:
    return {
        t.name: rounding(
            torch.from_numpy(bench.checkpoint.weights[t.name].reshape(as_matrix(t.shape)))
        )
        for t in bench.checkpoint.spec.tensors
        if t.role != "vector"
    }


def _progress(note: str) -> None:
    print(f"\r\x1b[K{note}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Run both recipes, print the tables and write them to --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("--calib", required=True, help="token shard to calibrate on")
    parser.add_argument("--calib-tokens", type=int, default=32768)
    parser.add_argument("--tokens", required=True, metavar="VAL_SHARD", help="to measure KL on")
    parser.add_argument("--tokenizer", type=Path, help="where --calib or --tokens are text")
    parser.add_argument("--budget", nargs="+", default=RD_BUDGETS)
    parser.add_argument("--rival", action="append", default=[], type=read_rival)
    parser.add_argument("--peers", action="store_true", help="other projects' quantizers, too")
    parser.add_argument("--kl-tokens", type=int, default=12288)
    parser.add_argument("--out", type=Path, default=Path("bench_rd"), metavar="DIR")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    options = read_options({
        "checkpoint": args.checkpoint, "calib": args.calib, "calib_tokens": args.calib_tokens,
        "threads": args.threads, "tokenizer": args.tokenizer,
    })  # fmt: skip
    bench = Bench(options, args.tokens, args.kl_tokens)
    points = sdclip_points(bench)
    for rival in (Rival("rd"), *args.rival):
        points += built_points(bench, rival, args.budget, args.out)
    if args.peers:
        points += peer_points(bench)
    _progress("")
    title = (
        f"{args.checkpoint}: {bench.numel:,} parameters, calibration on {args.calib_tokens:,} tokens, "
        f"KL on {bench.sequences.size:,} validation tokens, {time.perf_counter() - began:.0f} s"
    )
    print(save(points, bench.numel, title, args.out))


if __name__ == "__main__":
    main()
