"""The size and shape of the code: lines, files, dataclasses, import times, how far options travel.

    python benchmarks/house.py [--root DIR] [--runs 5]

`options` counts the functions with a parameter that is annotated as a build's options, and the files
they are in: how far the options of one build pass through the code. Import times are the median of
whole processes, less that of an empty one.
"""

import argparse
import ast
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
OPTIONS = {"BuildOptions", "Inputs", "Aim", "Machine"}
IMPORTS = ("golfpack", "golfpack.models", "golfpack.packer.recipe", "golfpack.cli")


def trees(folder: Path) -> Iterator[tuple[Path, str, ast.Module]]:
    """Every Python file below a folder, with its text and its syntax tree."""
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        yield path, text, ast.parse(text)


def is_dataclass(node: ast.AST) -> bool:
    """Whether a class is declared with the dataclass decorator."""
    return isinstance(node, ast.ClassDef) and any(
        "dataclass" in ast.dump(d) for d in node.decorator_list
    )


def takes_options(node: ast.AST) -> bool:
    """Whether a function has a parameter annotated as (a part of) a build's options."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = (ast.unparse(a.annotation) for a in arguments if a.annotation is not None)
    return any(name.split(" | ")[0].strip("\"'") in OPTIONS for name in names)


def counts(root: Path) -> dict[str, int]:
    """Figures of the source alone."""
    found = dict.fromkeys(
        ("lines", "comment_lines", "files", "dataclasses", "options_functions", "options_files"), 0
    )
    for _, text, tree in trees(root / "golfpack"):
        nodes = list(ast.walk(tree))
        passed = sum(map(takes_options, nodes))
        found["lines"] += text.count("\n")
        found["comment_lines"] += sum(line.lstrip().startswith("#") for line in text.splitlines())
        found["files"] += 1
        found["dataclasses"] += sum(map(is_dataclass, nodes))
        found["options_functions"] += passed
        found["options_files"] += passed > 0
    found["test_lines"] = sum(text.count("\n") for _, text, _ in trees(root / "tests"))
    return found


def seconds(root: Path, code: str, runs: int) -> float:
    """Median wall time of a process that runs `code`."""
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    taken = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=root, check=True, capture_output=True
        )
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=HERE, help="a checkout")
    parser.add_argument("--runs", type=int, default=5, help="processes per import time")
    args = parser.parse_args()
    for name, value in counts(args.root).items():
        print(f"{name:<28} {value:>8,}")
    empty = seconds(args.root, "pass", args.runs)
    for module in IMPORTS:
        spent = seconds(args.root, f"import {module}", args.runs) - empty
        print(f"import {module:<22} {spent:7.3f} s")
    help_ = "import sys; sys.argv = ['golfpack', '--help']; from golfpack import cli; cli.main()"
    print(f"{'golfpack --help':<28} {seconds(args.root, help_, args.runs):7.3f} s")


if __name__ == "__main__":
    main()
