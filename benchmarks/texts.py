"""Texts that scripts train on: files named on the command line, and the sources of Python itself."""

import argparse
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from golfpack.base.files import file_sha256
from golfpack.compare.store import key_of
from golfpack.data.corpus import SKIPPED_PARTS, split_documents
from golfpack.data.shards import write_shard
from golfpack.data.stream import is_text
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer

# How the sources of Python are split, their pieces, and how much text a tokenizer is trained on.
HELD_OUT, VOCAB, TOKENIZER_CHARS = 0.05, 1024, 4_000_000
PYTHON = "python"


@dataclass(frozen=True)
class Text:
    """What models are trained on and scored on: two token files, and the tokenizer of both."""

    name: str
    train: str
    held_out: str
    tokenizer: Path


def add_texts(parser: argparse.ArgumentParser) -> None:
    """The options that name texts."""
    parser.add_argument(
        "--text", nargs=4, action="append", default=[],
        metavar=("NAME", "TRAIN", "HELD_OUT", "TOKENIZER"),
        help="token files and their tokenizer; or text files and a number of pieces",
    )  # fmt: skip
    parser.add_argument(
        "--texts", help="names of those to run; python needs no --text. Default: all"
    )


def read_texts(args: argparse.Namespace) -> list[Text]:
    """The texts that were named, as token files in args.out."""
    given = {name: rest for name, *rest in args.text}
    names = args.texts.split(",") if args.texts else [*given, PYTHON]
    if missing := [n for n in names if n != PYTHON and n not in given]:
        raise SystemExit(f"no --text {missing[0]} TRAIN HELD_OUT TOKENIZER")
    args.out.mkdir(parents=True, exist_ok=True)
    return [prepare(name, given.get(name, ()), args.out) for name in names]


def python_sources() -> Iterator[str]:
    """The standard library's own files, in the order of their paths, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_PARTS.isdisjoint(path.relative_to(root).parts):
            yield path.read_bytes().decode("utf-8", "replace")


def prepare(name: str, given: Sequence[str], out: Path) -> Text:
    """A text as token files; text is encoded once, by a tokenizer trained on its own beginning."""
    if given and not is_text(given[0]):
        train, held_out, tokenizer = given
        return Text(name, train, held_out, Path(tokenizer))
    if given:
        train, held_out, vocab = given
        sides = [list(read_documents([train])), list(read_documents([held_out]))]
        key = key_of({"of": [file_sha256(Path(p)) for p in (train, held_out)], "vocab": vocab})
    else:
        documents, vocab = [d for d in python_sources() if d.strip()], VOCAB
        sides = list(split_documents(documents, HELD_OUT, 0))
        key = key_of({"of": documents, "vocab": vocab})
    folder = out / f"{name}@{key[:12]}"
    found = Text(
        name, str(folder / "train.bin"), str(folder / "held_out.bin"), folder / "tokenizer.model"
    )
    if Path(found.held_out).exists():  # which is written last
        return found
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: a tokenizer of {vocab} pieces, and its tokens", flush=True)
    train_tokenizer(_beginning(sides[0]), int(vocab), found.tokenizer)
    tokenizer = load_tokenizer(found.tokenizer)
    for path, documents in zip((found.train, found.held_out), sides, strict=True):
        write_shard(path, encode_documents(tokenizer, documents))
    return found


def _beginning(documents: Sequence[str]) -> Iterator[str]:
    left = TOKENIZER_CHARS
    for document in documents:
        yield document
        left -= len(document)
        if left <= 0:
            return
