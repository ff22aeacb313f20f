import re
import sys
from pathlib import Path

import pytest

from golfpack.data import corpus
from golfpack.data.corpus import REPEAT_WORDS, python_documents, split_documents
from golfpack.errors import UsageError

PARAGRAPH = "A paragraph of more than eight words, which modules like to copy from each other."


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return python_documents()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty standard library to be filled with files."""
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(corpus, "MIN_DOCUMENT_CHARS", 1)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def test_topics_come_first_then_modules_in_source_order(library: Path) -> None:
    write(library, "pydoc_data/topics.py", "topics = {'b': 'Second.', 'a': 'First.'}\n")
    write(
        library, "abc.py", '"""Top."""\nclass A:\n    """In A."""\n    def f(self):\n        "f."\n'
    )
    write(library, "os.py", 'raise SystemExit("never imported")\n')
    write(library, "email/mime.py", '"""Mime."""\n')
    write(library, "email/test/support.py", '"""A test."""\n')
    write(library, "site-packages/third.py", '"""Third party."""\n')
    assert python_documents() == ["First.", "Second.", "Top.\n\nIn A.\n\nf.", "Mime."]


def test_examples_and_copied_paragraphs_are_dropped(library: Path) -> None:
    write(library, "abc.py", f'"""Short.\n\n{PARAGRAPH}\n"""')
    copied = PARAGRAPH.upper().replace(" ", "\n", 3)
    write(library, "os.py", f'"""Short.\n\n{copied}\n\nSo:\n>>> 1 + 1\n2\n"""')
    assert python_documents() == [f"Short.\n\n{PARAGRAPH}", "Short.\n\nSo:"]


def test_python_without_sources_is_an_error(library: Path) -> None:
    with pytest.raises(UsageError, match="no library sources"):
        python_documents()


def test_real_corpus_is_large_and_read_without_imports(documents: list[str]) -> None:
    assert sum(map(len, documents)) > 1_000_000
    assert not any(line.startswith(">>>") for d in documents for line in d.splitlines())
    assert "antigravity" not in sys.modules


def test_split_shares_no_paragraph(documents: list[str]) -> None:
    train, val = split_documents(documents, 0.1, seed=0)
    assert sorted(train + val) == sorted(documents)
    assert 0.08 < sum(map(len, val)) / sum(map(len, documents)) <= 0.1

    def long_paragraphs(side: list[str]) -> set[str]:
        bags = (re.findall(r"\w+", p.lower()) for d in side for p in d.split("\n\n"))
        return {" ".join(words) for words in bags if len(words) >= REPEAT_WORDS}

    assert not long_paragraphs(train) & long_paragraphs(val)


def test_split_follows_content_and_seed_not_order(documents: list[str]) -> None:
    _, val = split_documents(documents, 0.1, seed=0)
    _, shuffled = split_documents(documents[::-1] + documents[:3], 0.1, seed=0)
    _, reseeded = split_documents(documents, 0.1, seed=1)
    assert set(val) == set(shuffled)
    assert set(val) != set(reseeded)


@pytest.mark.parametrize(
    ("count", "fraction"), [(10, 0.0), (10, 1.0), (10, float("nan")), (1, 0.5), (0, 0.5)]
)
def test_impossible_splits_are_errors(count: int, fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction"):
        split_documents([f"document {i}" for i in range(count)], fraction, seed=0)
