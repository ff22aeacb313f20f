"""Bytes and KL of recipes, read off against each other; tables and a plot.

A grid is as coarse as its steps, so its hull is what counts: it lies on or below every grid point.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# Where recipes are read off: nats per token, and bits per parameter.
KL_LEVELS = (0.005, 0.007, 0.009, 0.012, 0.02)
BPW_LEVELS = (3.0, 3.25, 3.5, 3.75, 4.0)


@dataclass(frozen=True)
class Point:
    """One artifact. `exact`: `size` is that of its bytes, not an estimate."""

    recipe: str
    setting: str
    size: int
    exact: bool
    kl: float


def front(points: Iterable[Point], margin: float = 0.0) -> list[Point]:
    """Points that no other beats in both size (by more than `margin`) and KL, by size."""
    points = sorted(points, key=lambda p: p.size)
    return [
        p
        for p in points
        if not any(q.kl <= p.kl and q.size < p.size * (1 - margin) for q in points if q is not p)
    ]


def hull(points: Iterable[Point]) -> list[Point]:
    """The lower convex hull of size and KL, both in logs: what settings in between could reach."""
    out: list[Point] = []
    for p in front(points):
        while len(out) > 1 and _turn(out[-2], out[-1], p) <= 0:
            out.pop()
        out.append(p)
    return out


def _turn(a: Point, b: Point, c: Point) -> float:
    """Positive where the way from a over b to c turns left, in logs."""
    (ax, ay), (bx, by), (cx, cy) = (np.log([p.size, p.kl]) for p in (a, b, c))
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


def size_at(points: list[Point], kl: float) -> float | None:
    """Bytes at a KL, between neighbours of a hull, both in logs; None outside of it."""
    return _between([(p.kl, p.size) for p in points], kl)


def kl_at(points: list[Point], size: float) -> float | None:
    """KL at a size, likewise."""
    return _between([(p.size, p.kl) for p in points], size)


def _between(pairs: list[tuple[float, float]], x: float) -> float | None:
    xs, ys = np.array(sorted(pairs)).T
    if not xs[0] <= x <= xs[-1]:
        return None
    return float(np.exp(np.interp(np.log(x), np.log(xs), np.log(ys))))


@dataclass(frozen=True)
class Ratio:
    """A recipe at one level: `at` is a KL or a size, `ratio` is its value of the other over sdclip's."""

    recipe: str
    at: float
    sdclip: float
    value: float

    @property
    def ratio(self) -> float:
        """The recipe over sdclip."""
        return self.value / self.sdclip


def ratios(sdclip: list[Point], other: list[Point], numel: int) -> tuple[list[Ratio], list[Ratio]]:
    """(bytes at equal KL, KL at equal bytes) of one recipe, wherever both hulls reach."""
    if not other:
        return [], []
    name = other[0].recipe
    sizes = [round(b * numel / 8) for b in BPW_LEVELS]
    at_kl = [_ratio(name, kl, size_at(sdclip, kl), size_at(other, kl)) for kl in KL_LEVELS]
    at_size = [_ratio(name, size, kl_at(sdclip, size), kl_at(other, size)) for size in sizes]
    return [r for r in at_kl if r], [r for r in at_size if r]


def _ratio(recipe: str, at: float, sdclip: float | None, value: float | None) -> Ratio | None:
    return None if sdclip is None or value is None else Ratio(recipe, at, sdclip, value)


# --- output ----------------------------------------------------------------------------------------


def save(points: list[Point], numel: int, title: str, folder: Path) -> str:
    """Write bench_rd.md, .json and .png to `folder`; returns the markdown."""
    sdclip = hull(p for p in points if p.recipe == "sdclip" and p.exact)
    names = [n for n in dict.fromkeys(p.recipe for p in points) if n != "sdclip"]
    others = {n: [p for p in points if p.recipe == n] for n in names}
    found = [ratios(sdclip, each, numel) for each in others.values()]
    at_kl, at_size = ([r for pair in found for r in pair[i]] for i in (0, 1))
    text = "\n\n".join([title, _points_table(points, sdclip, numel), _ratio_tables(at_kl, at_size)])
    data = {
        "title": title,
        "parameters": numel,
        "points": [asdict(p) for p in points],
        "sdclip_hull": [p.setting for p in sdclip],
        "bytes_at_equal_kl": [asdict(r) | {"ratio": r.ratio} for r in at_kl],
        "kl_at_equal_bytes": [asdict(r) | {"ratio": r.ratio} for r in at_size],
    }
    (folder / "bench_rd.json").write_text(json.dumps(data, indent=1) + "\n")
    if find_spec("matplotlib") is None:
        text += "\n\nNo plot: matplotlib is not installed."
    else:
        _plot(points, sdclip, others, folder / "bench_rd.png")
    (folder / "bench_rd.md").write_text(text + "\n")
    return text


def _points_table(points: list[Point], sdclip: list[Point], numel: int) -> str:
    lines = ["| recipe | bytes | bits/weight | KL | |", "|---|---:|---:|---:|---|"]
    for p in points:
        size = f"{'' if p.exact else '~'}{p.size:,}"
        mark = "hull" if p in sdclip else ""
        lines.append(
            f"| {p.recipe} {p.setting} | {size} | {8 * p.size / numel:.3f} | {p.kl:.5f} | {mark} |"
        )
    note = (
        "~: by entropy, not coded: others are smaller and better, or the other Hessian is better. "
        "hull: the lower convex hull in logs, which the ratios below are read off."
    )
    return "\n".join([*lines, "", note])


def _ratio_tables(at_kl: list[Ratio], at_size: list[Ratio]) -> str:
    """A row a level, a column a recipe; "-" where its points do not reach."""
    tables = (
        _ratio_table("at KL", "sdclip bytes", at_kl, ".5f", ",.0f"),
        _ratio_table("at bytes", "sdclip KL", at_size, ",.0f", ".5f"),
    )
    return "\n\n".join(t for t in tables if t)


def _ratio_table(level: str, reference: str, rows: list[Ratio], level_form: str, form: str) -> str:
    if not rows:
        return ""
    names = list(dict.fromkeys(r.recipe for r in rows))
    lines = [
        f"| {level} | {reference} | " + " | ".join(f"{n} | over sdclip" for n in names) + " |",
        "|" + "---:|" * (2 + 2 * len(names)),
    ]
    for at in dict.fromkeys(r.at for r in rows):
        here = {r.recipe: r for r in rows if r.at == at}
        cells = [
            f"{here[n].value:{form}} | {here[n].ratio:.3f}" if n in here else "- | -" for n in names
        ]
        sdclip = next(iter(here.values())).sdclip
        lines.append(f"| {at:{level_form}} | {sdclip:{form}} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plot(
    points: list[Point], sdclip: list[Point], others: dict[str, list[Point]], path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rest = [p for p in points if p.recipe == "sdclip" and p not in sdclip]
    axes.plot([p.size for p in rest], [p.kl for p in rest], ".", color="0.7", label="SDClip grid")
    axes.plot(
        [p.size for p in sdclip], [p.kl for p in sdclip], "o-", label="SDClip hull, brotli-11"
    )
    for name, each in others.items():
        line = front(each)
        (drawn,) = axes.plot(
            [p.size for p in line], [p.kl for p in line], "s-", markersize=4, label=name
        )
        rest = [p for p in each if p not in line]
        axes.plot(
            [p.size for p in rest], [p.kl for p in rest], "s", markersize=4, color=drawn.get_color()
        )
    axes.set(xlabel="artifact, bytes", ylabel="KL, nats per token", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150)
