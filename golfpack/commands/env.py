"""`golfpack env`: its options, and what it prints."""

from typing import TYPE_CHECKING

from golfpack.commands.options import Json
from golfpack.commands.render.console import out, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.inspect.environment import EnvReport

EXAMPLES = "Examples: golfpack env | golfpack env --json > env.json"


def env(json: Json = False) -> None:
    """Show versions, threads, memory and devices, for a bug report; no names, no secrets."""
    from golfpack.inspect.environment import environment

    report = environment()
    if json:
        show_json(report)
    else:
        show_env(report)


def show_env(report: "EnvReport") -> None:
    """What to paste into a bug report."""
    table = plain_table()
    for name, value in _env_lines(report):
        table.add_row(name, value)
    out.print(table)


def _env_lines(r: "EnvReport") -> list[tuple[str, str]]:
    cpu, devices = r.cpu, r.cuda["devices"]
    usable = "" if cpu["usable"] in (None, cpu["cores"]) else f", {cpu['usable']} usable"
    omp = r.threads["OMP_NUM_THREADS"]
    pools = [f"torch {r.threads['torch']}", *r.threads["pools"]]
    built = r.cuda["built_for"]
    torch_build = "torch built without CUDA" if built is None else f"torch built for CUDA {built}"
    found = ", ".join(f"{d['name']} ({d['bytes'] / 2**30:.0f} GiB)" for d in devices)
    missing = [name for name, version in r.packages.items() if version is None]
    return [
        ("golfpack", r.golfpack),
        ("python", r.python),
        ("platform", r.platform),
        ("cpu", f"{cpu['name']} ({cpu['machine']}), {cpu['cores']} cores{usable}"),
        ("memory", "unknown" if r.memory_bytes is None else f"{r.memory_bytes / 2**30:.1f} GiB"),
        ("threads", ", ".join(pools) + ("" if omp is None else f"; OMP_NUM_THREADS={omp}")),
        ("cuda", f"{torch_build}; {found or 'no device'}"),
        ("packages", ", ".join(f"{n} {v}" for n, v in r.packages.items() if v is not None)),
        ("missing", ", ".join(missing) or "none"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in r.libraries.items())),
        ("cache", f"{r.cache['folder']}, {r.cache['files']:,} files, {r.cache['bytes']:,} bytes"),
    ]
