"""From a text to the tokens a model reads: which tokenizer, what begins a text, the form of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.data.tokenizer import Tokenizer, beside, load_tokenizer, read_tokenizer
from golfpack.errors import UsageError
from golfpack.models.model import Model

# A turn of thomasdavis/alpha2's chat data: "<|user|> text <|assistant|> text ... <|end_of_text|>".
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end_of_text|>"


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model reads, and what ends what it writes.

    Attributes:
        ids: tokens, at least one.
        tokenizer: None where ids were given and no text is wanted.
        source: the tokenizer's file, or "inside"; None without.
        stops: tokens that end a text.
        endings: texts that do.
        warnings: of what the prompt lost.
    """

    ids: tuple[int, ...]
    tokenizer: Tokenizer | None = None
    source: str | None = None
    stops: frozenset[int] = frozenset()
    endings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_tokenizer(model: Model, named: Path | None) -> tuple[Tokenizer, str] | None:
    """The tokenizer that was named, else the one inside the artifact, else the one beside the file.

    Raises:
        UsageError: it cannot be read, or has more tokens than the model.
    """
    if named is not None:
        found = load_tokenizer(named), str(named)
    elif model.tokenizer is not None:
        name, data = model.tokenizer
        found = read_tokenizer(data, model.path.with_name(f"{model.path.name}:{name}")), "inside"
    elif (path := beside(model.path)) is not None:
        found = load_tokenizer(path), str(path)
    else:
        return None
    pieces, rows = found[0].vocab_size(), model.config["vocab_size"]
    if pieces > rows:
        raise UsageError(
            f"the tokenizer {found[1]} has {pieces:,} tokens, the model {rows:,}",
            "give the model's own tokenizer: --tokenizer FILE",
        )
    return found


def text_prompt(
    model: Model, text: str, named: Path | None, *, chat: bool = False, bos: bool = True
) -> Prompt:
    """The prompt of a text.

    Args:
        model: whose tokenizer it is.
        text: may be empty where the tokenizer has a token that begins a text.
        named: the tokenizer's file, if one was named.
        chat: put the text into a user's turn; the model writes the answer.
        bos: begin with that token, where there is one.

    Raises:
        UsageError: no tokenizer, or nothing to begin with.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):  # what Python makes of bytes that are no UTF-8
        raise UsageError("the prompt is not UTF-8", "give it in UTF-8, or as --prompt-ids")
    found = find_tokenizer(model, named)
    if found is None:
        raise UsageError(
            f"there is no tokenizer in {model.path} or beside it",
            "add --tokenizer FILE, or give --prompt-ids; `build --with-tokenizer` puts one inside",
        )
    tokenizer, source = found
    asked = f"{USER} {text.strip()} {ASSISTANT}" if chat else text
    ids, warnings = _encoded(tokenizer, asked)
    first = tokenizer.bos_id()
    if bos and first >= 0:
        ids = [first, *ids]
    if not ids:
        raise UsageError(
            "there is nothing to begin with: the prompt is empty"
            + ("" if first >= 0 else ", and the tokenizer has no token that begins a text"),
            "give a --prompt" + (", or leave --no-bos out" if first >= 0 else ""),
        )
    endings = (END, USER) if chat else ()
    return Prompt(tuple(ids), tokenizer, source, _control(tokenizer), endings, warnings)


def ids_prompt(model: Model, ids: Sequence[int], named: Path | None) -> Prompt:
    """The prompt of token ids; the text is only told where a tokenizer was named or is inside.

    Raises:
        UsageError: no ids, or one beyond the vocabulary.
    """
    rows = model.config["vocab_size"]
    if not ids or not all(0 <= i < rows for i in ids):
        raise UsageError(
            f"--prompt-ids {','.join(map(str, ids))!r} are no tokens of this model",
            f"give one or more numbers from 0 to {rows - 1}, with commas between",
        )
    found = None
    if named is not None or model.tokenizer is not None:
        found = find_tokenizer(model, named)
    if found is None:
        return Prompt(tuple(ids))
    return Prompt(tuple(ids), *found, stops=_control(found[0]))


def _control(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that stand for no text, such as those that begin and end it."""
    return frozenset(i for i in range(tokenizer.vocab_size()) if tokenizer.IsControl(i))


def _encoded(tokenizer: Tokenizer, text: str) -> tuple[list[int], tuple[str, ...]]:
    if not text:
        return [], ()
    if isinstance(tokenizer, AlphTokenizer):
        made = tokenizer.encode(text)
        if made.dropped:
            lost = "".join(sorted(made.dropped))
            return made.tokens.tolist(), (f"the tokenizer has no {lost!r}: left out of the prompt",)
        return made.tokens.tolist(), ()
    return list(tokenizer.Encode(text)), ()
