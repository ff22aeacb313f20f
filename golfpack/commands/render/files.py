"""What `golfpack verify`, `list` and `env` show; it prints through `commands/render/console.py`."""

from rich.table import Table

from golfpack.commands.render.console import out
from golfpack.inspect.environment_report import EnvReport
from golfpack.inspect.listing_report import ListReport
from golfpack.inspect.verify_report import VerifyReport


def show_verify(report: VerifyReport) -> None:
    """A line per check, then the verdict."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in report.checks:
        status = "FAILED" if check.status == "failed" else check.status
        table.add_row(check.name, status, check.detail)
    out.print(table)
    if report.passed:
        out.print(f"{report.path} is whole: {report.bytes:,} bytes")
        out.print(f"sha256 of the file, digest included: {report.sha256}")


def show_list(report: ListReport) -> None:
    """A name and what it is, line by line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in report.entries:
        table.add_row(entry.name, entry.about)
    out.print(table)
    out.print(f"used in: {report.used}")


def show_env(report: EnvReport) -> None:
    """What to paste into a bug report."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _env_lines(report):
        table.add_row(name, value)
    out.print(table)


def _env_lines(r: EnvReport) -> list[tuple[str, str]]:
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
