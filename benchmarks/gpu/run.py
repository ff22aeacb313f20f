"""Everything that needs a GPU to be measured: correctness first, then times, in one command.

    python benchmarks/gpu/run.py --out results.json [--only check,quantize] [--tokens 'shards/*.bin']

Without --only the sections are: `check` every kernel against float64; `families` short runs of every
family and feature of training on CPU and GPU, and of every aim; `commands` training for an artifact,
every mode of `eval`, generation and a submission's script; `agree` one build on CPU and GPU;
`refine` the same with trained codes; `eval` plain, sliding and test-time-trained scoring; `train` its
speed; `build` a full rd build of a 36M-parameter record-shaped model by stages. Asked for alone:
`quantize` GPTQ of that model's matrices against plain torch; `several` small models that train at once.
With --tokens also `model`, which trains the large one for --minutes on them, and `export`, which writes
it in pieces below 16 MiB beside the JSON. A section that fails is recorded and the rest still runs.
--smoke runs all of it on a CPU at tiny sizes, with Triton's interpreter where triton is installed.

The exit code is 1 where a check failed or a section broke.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

DEFAULT = ("check", "families", "commands", "agree", "refine", "eval", "train", "build")
ALONE = ("quantize", "several")
WITH_TOKENS = ("model", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections asked for; the exit code."""
    args = _parse(argv)
    if args.smoke:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported
    import torch

    from benchmarks.gpu.measure import Job, machine

    if not args.smoke and not torch.cuda.is_available():
        print("torch sees no CUDA device; --smoke runs everything on the CPU, at tiny sizes")
        return 1
    device = "cpu" if args.smoke else "cuda"
    job = Job(
        device, args.smoke, args.threads, args.out, args.tokens, args.minutes, args.checkpoint,
        args.calib, args.model_dir, args.pieces,
    )  # fmt: skip
    report: dict[str, Any] = {
        "command": sys.argv if argv is None else ["run.py", *argv],
        "machine": machine(device),
        "smoke": args.smoke,
        "threads": args.threads,
        "sections": {},
    }
    every = DEFAULT + (ALONE if args.smoke else ()) + (WITH_TOKENS if args.tokens else ())
    for name in args.only or every:
        print(f"{name} ...", flush=True)
        report["sections"][name] = _run(_section(name), job)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(_table(report)))
    return 0 if all(_passed(s) for s in report["sections"].values()) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--only", type=_names, help="sections, with commas")
    parser.add_argument("--tokens", help="glob of training shards for the model, 8192 tokens wide")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--checkpoint", type=Path, help="for `agree` and `refine`, not random")
    parser.add_argument("--calib", help="shard that goes with --checkpoint")
    parser.add_argument("--model-dir", type=Path, default=Path("gpu_model"))
    parser.add_argument("--pieces", type=_numbers, default=(), help="of `export`, such as 1,2,3")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--smoke", action="store_true")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - {*DEFAULT, *ALONE, *WITH_TOKENS}:
        raise argparse.ArgumentTypeError(f"unknown sections {sorted(unknown)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _section(name: str) -> Callable[..., None]:
    """A section's function; importing it may fail where a package is missing."""

    def run(job: Any, found: Any) -> None:
        if name == "check":
            from benchmarks.gpu.checks import correctness as section
        elif name == "quantize":
            from benchmarks.gpu.quantize import quantize as section
        elif name in ("build", "agree", "refine"):
            from benchmarks.gpu import builds

            section = {
                "build": builds.full_build, "agree": builds.agreement, "refine": builds.refined,
            }[name]  # fmt: skip
        elif name == "families":
            from benchmarks.gpu.families import families as section
        elif name == "several":
            from benchmarks.gpu.several import several as section
        elif name == "commands":
            from benchmarks.gpu.commands import commands as section
        elif name == "eval":
            from benchmarks.gpu.scoring import scoring as section
        else:
            from benchmarks.gpu import training

            section = {
                "train": training.speed, "model": training.train_model,
                "export": training.export,
            }[name]  # fmt: skip
        section(job, found)

    return run


def _run(section: Callable[..., None], job: Any) -> dict[str, Any]:
    """One section: what it found, how long it took, and what broke."""
    from benchmarks.gpu.measure import Findings

    found, error, began = Findings(), None, time.perf_counter()
    try:
        section(job, found)
    except (Exception, SystemExit):
        error = traceback.format_exc()
        print(error, file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "checks": found.checks, "figures": found.figures, "error": error}


def _passed(section: dict[str, Any]) -> bool:
    return section["error"] is None and all(c["passed"] for c in section["checks"])


def _table(report: dict[str, Any]) -> list[str]:
    """A line for each section: what passed, what broke; its figures were printed as they came."""
    lines = [f"\n{report['machine'].get('gpu', 'CPU, smoke run: times mean nothing')}"]
    for name, section in report["sections"].items():
        passed = sum(c["passed"] for c in section["checks"])
        line = f"{name}: {passed} of {len(section['checks'])} checks, {section['seconds']:.1f} s"
        lines.append(line + (" BROKEN" if section["error"] else ""))
        if section["error"]:
            lines.append("  " + section["error"].strip().splitlines()[-1])
    return lines


if __name__ == "__main__":
    sys.exit(main())
