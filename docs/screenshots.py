"""Makes the pictures of docs/img/: the terminal's report, and the HTML page.

    python docs/screenshots.py CKPT TRAIN.bin VAL.bin TOKENIZER.model

Works in a folder of its own under plain names, so that no path of this machine is on any picture.
Needs Chromium and playwright; Pillow comes with matplotlib.
"""

import argparse
import fcntl
import io
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

IMAGES = Path(__file__).resolve().parent / "img"
BUILD = ["build", "ckpt.pt", "--budget", "3bpw", "--calib", "train.bin", "--html"]
EVALUATE = [
    "eval", "ckpt.golf", "--float", "ckpt.pt", "--tokens", "val.bin", "--tokenizer", "bpe.model",
    "--limit", "4097", "--window", "512", "--mode", "sliding", "--json",
]  # fmt: skip
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Bytes of a picture above which it gets fewer colours.
LARGE = 200_000
INK, PAPER = (223, 225, 229), (24, 26, 29)
COLOURS = [
    (60, 63, 70), (240, 130, 109), (76, 195, 141), (224, 166, 74), (91, 147, 216), (190, 140, 220),
    (90, 190, 200), INK,
]  # fmt: skip
THEME = TerminalTheme(PAPER, INK, COLOURS)
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: rgb{paper}; display: inline-block; }}
pre {{ min-width: {columns}ch; margin: 0; padding: 18px 22px; color: rgb{ink}; }}
pre {{ font: 13px/1.4 "DejaVu Sans Mono", monospace; }}
b {{ color: rgb(76, 195, 141); }}</style><pre><b>$</b> {command}
{text}</pre>"""


def main() -> None:
    """Build, evaluate, take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("checkpoint", "train", "validation", "tokenizer"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        names = ("ckpt.pt", "train.bin", "val.bin", "bpe.model")
        for name, path in zip(names, vars(given).values(), strict=True):
            shutil.copyfile(path, Path(folder, name))
        # Installed or not, the golfpack beside this file is the one on the pictures.
        root = str(Path(__file__).resolve().parents[1])
        env = {**os.environ, "PYTHONPATH": root, "GOLFPACK_CACHE": str(Path(folder, "cache"))}
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = p.chromium.launch(executable_path=chromium, args=ARGS)
        for columns in (80, 140):
            text = terminal([*BUILD, "--table", "tensor", "-q"], columns, folder, env)
            shoot_terminal(browser.new_page(), text, columns)
        evaluated = run(EVALUATE, folder, env, capture=True)
        Path(folder, "ckpt.eval.json").write_text(evaluated)
        run(["report", "ckpt.golf", "--eval", "ckpt.eval.json"], folder, env)
        shoot_page(browser, Path(folder, "ckpt.html").as_uri())
        browser.close()
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path.name} {path.stat().st_size:,} bytes")


def run(command: list[str], folder: str, env: dict[str, str], *, capture: bool = False) -> str:
    """A golfpack command; its stdout."""
    call = [sys.executable, "-m", "golfpack", *command]
    found = subprocess.run(
        call,
        cwd=folder,
        env=env,
        check=True,
        text=True,
        stdout=subprocess.PIPE if capture else None,
    )
    return found.stdout or ""


def terminal(command: list[str], columns: int, folder: str, env: dict[str, str]) -> str:
    """What a golfpack command writes to a terminal of so many columns, escape sequences included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "golfpack", *command],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
        env={**env, "TERM": "xterm-256color", "COLUMNS": str(columns)},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0, b"".join(parts).decode()
    return b"".join(parts).decode().replace("\r\n", "\n")


def shoot_terminal(page: Page, text: str, columns: int) -> None:
    """A picture of a terminal's text."""
    console = Console(record=True, width=columns, file=io.StringIO())
    console.print(Text.from_ansi(text.rstrip()), soft_wrap=True)
    code = console.export_html(theme=THEME, code_format="{code}", inline_styles=True)
    command = " ".join(["golfpack", *BUILD, "--table", "tensor"])
    page.set_content(
        TERMINAL.format(paper=PAPER, ink=INK, command=command, text=code, columns=columns)
    )
    save(page.locator("body").screenshot(), f"terminal-{columns}.png")
    page.close()


def shoot_page(browser: Any, uri: str) -> None:
    """Pictures of the HTML page: all of it, a tensor's details, and a telephone's."""
    page = window(browser, uri, 1280, 900, "light")
    save(page.screenshot(full_page=True), "page-desktop-light.png")
    page = window(browser, uri, 1280, 900, "dark")
    page.locator('.cell[data-tensor*=".mlp."]').first.click()
    show(page, "bytes")
    save(page.screenshot(), "page-details-dark.png")
    frames = []
    for scheme, part in (
        ("light", None),
        ("light", "errors"),
        ("dark", "bytes"),
        ("dark", "tensors"),
    ):
        page = window(browser, uri, 390, 844, scheme)
        if part:
            show(page, part)
        if part == "tensors":
            page.locator(".tensors tr.worst button").first.click()
        frames.append(Image.open(io.BytesIO(page.screenshot())))
    gap = 20
    wide = Image.new("RGB", ((390 + gap) * len(frames) - gap, 844), (128, 130, 135))
    for i, frame in enumerate(frames):
        wide.paste(frame, ((390 + gap) * i, 0))
    held = io.BytesIO()
    wide.save(held, "PNG")
    save(held.getvalue(), "page-phone.png")


def window(browser: Any, uri: str, width: int, height: int, scheme: str) -> Page:
    """The page in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(uri)
    return page


def show(page: Page, part: str) -> None:
    """Scroll to a section."""
    page.evaluate(f"document.getElementById('{part}').scrollIntoView()")


def save(png: bytes, name: str) -> None:
    """Write a picture; a large one with 256 colours, which nobody sees."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    if held.tell() > LARGE:
        held = io.BytesIO()
        image.quantize(256, kmeans=1, dither=Image.Dither.NONE).save(held, "PNG", optimize=True)
    (IMAGES / name).write_bytes(held.getvalue())


if __name__ == "__main__":
    main()
