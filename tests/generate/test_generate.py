"""Text from checkpoints and artifacts: streams, caches, tokenizers inside, chats, and the command."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, asked, trained_looking

import golfpack
from golfpack.build.plan import plan
from golfpack.build.run import build
from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.data.tokenizer import load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.generate.prompt import ASSISTANT, END, USER
from golfpack.generate.run import GenerateOptions, generate
from golfpack.generate.sample import Sampling
from golfpack.generate.stream import TextStream
from golfpack.models.alph.family import ALPH
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.model import Model
from golfpack.packer.format.loader import load

TEXT = [f"{a} {b} went to the {c}, naïve 🙂" for a in ("a cat", "one dog") for b in "xyz"
        for c in ("river", "village", "red hat", "mountain", "sea")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A golf checkpoint with its tokenizer, and an artifact with the tokenizer inside."""
    path = tmp_path_factory.mktemp("generate")
    train_tokenizer(TEXT, 290, path / "t.model")
    weights = trained_looking({**TINY, "vocab_size": 290}, 7)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, path / "c.pt")
    build(
        asked(
            path / "c.pt", "40kB", path / "c.golf", data_free=True, with_tokenizer=True, cache=False
        )
    )
    return path


@pytest.mark.parametrize("budget", ["40kB", "10MB"])
def test_the_tokenizer_counts_in_plans_too(folder, budget):
    inside = asked(folder / "c.pt", data_free=True, with_tokenizer=True, dry_run=True, cache=False)
    built, row = build(inside.changed(budget=budget)), plan(inside, [budget]).rows[0]
    assert 0 < built.tokenizer_bytes < row.artifact_bytes
    assert row.artifact_bytes == pytest.approx(built.artifact_bytes, rel=0.1)


def test_the_tokenizer_counts_and_comes_back(folder):
    artifact = load(folder / "c.golf")
    report = json.loads((folder / "c.report.json").read_text())
    given = (folder / "t.model").read_bytes()
    assert artifact.tokenizer is not None
    assert (artifact.tokenizer.name, artifact.tokenizer.data) == ("t.model", given)
    assert 0 < report["tokenizer_bytes"] < len(given)
    tensors = sum(t["bytes"] for t in report["tensors"])
    size = (folder / "c.golf").stat().st_size
    assert tensors + report["fixed_bytes"] == size == report["artifact_bytes"] <= 40_000
    assert report["headroom_bytes"] < 100  # the search knew of it
    assert report["fixed_bytes"] > report["tokenizer_bytes"]
    plain = build(asked(folder / "c.pt", "40kB", data_free=True, dry_run=True, cache=False))
    assert plain.tokenizer_bytes == 0
    bytes_less = sum(t.bytes for t in plain.tensors) - tensors
    assert bytes_less == pytest.approx(report["tokenizer_bytes"], abs=300)
    again = golfpack.verify(folder / "c.golf", report=folder / "c.report.json")
    assert again.passed
    assert all(c.status == "ok" for c in again.checks)


def test_a_text_is_the_same_by_cache_and_without(folder):
    artifact = golfpack.load(folder / "c.golf")
    before = torch.random.get_rng_state()
    pieces = []
    one = artifact.generate("a cat", tokens=40, seed=3, on_text=pieces.append)
    two = artifact.generate("a cat", tokens=40, seed=3, cached=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (one.tokens, one.text) == (two.tokens, two.text)
    assert "".join(pieces) == one.text
    assert len(pieces) > 5
    assert (one.ended, len(one.tokens)) == ("length", 40)
    assert one.tokenizer == "inside"
    assert one.prompt_ids[0] == 1  # documents begin with a BOS
    # Both layers' keys and values of the prompt and of all tokens but the last, in float32.
    positions = len(one.prompt_ids) + 39
    assert (one.kv_bytes, two.kv_bytes) == (2 * 2 * 24 * 4 * positions, 0)
    assert artifact.generate("a cat", tokens=40, seed=4).tokens != one.tokens
    stored = artifact.generate("a cat", tokens=40, seed=3, kv_cache="q8_0", kv_residual=4)
    assert stored.kv_cache == "k=q8_0/24,v=q8_0/24"
    assert stored.kv_bytes == 2 * 2 * (positions * (24 + 2) + 4 * 24 * 2)
    by_path = golfpack.generate(folder / "c.golf", "a cat", tokens=40, seed=3)
    assert by_path.tokens == one.tokens


def test_equal_weights_write_equal_texts(folder, tmp_path):
    """A checkpoint, and its artifact that keeps every float."""
    build(asked(folder / "c.pt", None, tmp_path / "same.golf", lossless=True, cache=False))
    texts = [
        golfpack.generate(path, "one dog", tokens=80, seed=1, tokenizer=folder / "t.model").text
        for path in (folder / "c.pt", tmp_path / "same.golf")
    ]
    assert texts[0] == texts[1]


def test_ids_in_place_of_a_text(folder):
    found = golfpack.generate(folder / "c.pt", [1, 5, 9], tokens=4, temperature=0)
    # The tokenizer beside a checkpoint is not taken for ids: it may be another's.
    assert (found.text, found.tokenizer, len(found.tokens)) == (None, None, 4)
    logits = load_checkpoint(folder / "c.pt").module()(torch.tensor([[1, 5, 9]]))
    assert found.tokens[0] == logits[0, -1].argmax()


def test_a_token_that_ends_a_text_ends_it(folder):
    model = load_checkpoint(folder / "c.pt")
    rows = dict(model.weights)
    rows["tok_emb.weight"] = np.zeros_like(rows["tok_emb.weight"])
    rows["tok_emb.weight"][2] = 1.0  # EOS is the likeliest wherever the state's sum is positive
    rows["tok_emb.weight"][1] = -1.0  # BOS else: both end a text
    made = Model(model.family, model.config, model.spec, rows, "", {}, model.path)
    found = generate(made, GenerateOptions(prompt="a", sampling=Sampling(0)))
    assert (found.ended, len(found.tokens), found.text) == ("token", 1, "")


@pytest.mark.parametrize("split", [1, 3, 9])
def test_pieces_add_up_to_the_decoded_text(folder, split):
    """Characters of several byte tokens come whole; nothing is lost or told twice."""
    sp = load_tokenizer(folder / "t.model")
    text = "a cat 🙂 went naïve, 日本 to 🙃🙃 the sea"
    ids = sp.Encode(text)
    stream = TextStream(sp, [1, *ids[:split]], ())
    pieces = [stream.push(i) for i in ids[split:]]
    assert not any("�" in p for p in pieces)
    assert sp.Decode(ids[:split]) + "".join(pieces) + stream.flush() == text
    assert len([p for p in pieces if p]) > 10


def characters(text):
    return AlphTokenizer(tuple(sorted(set(text))), ())


def test_an_ending_is_held_back_and_never_told():
    tokenizer = characters("abc<|end>")
    stream = TextStream(tokenizer, [0], ("<|end|>", "<a>"))
    told = [stream.push(i) for i in tokenizer.Encode("ab<|e<|end|>cc")]
    assert "".join(told) == "ab<|e"
    assert stream.ended
    assert stream.flush() == ""
    open_end = TextStream(tokenizer, [0], ("<|end|>",))
    told = [open_end.push(i) for i in tokenizer.Encode("ab<|en")]
    assert "".join(told) == "ab"
    assert open_end.flush() == "<|en"


def chat_model(tmp_path, reply):
    """An ALPH model that says `reply` whatever it is asked, told by position: wpe rows pick tokens."""
    alphabet = "".join(sorted(set(f"{USER} hi {ASSISTANT}{reply}{END}")))
    prompt = f"{USER} hi {ASSISTANT}"
    config = {
        "vocab_size": len(alphabet), "num_layers": 1, "dim": 64, "num_heads": 2, "mlp_hidden": 8,
        "seq_len": 120, "score_cap": 30.0,
    }  # fmt: skip
    spec = ALPH.spec(config)
    weights = {t.name: np.zeros(t.shape, np.float32) for t in spec.tensors}
    weights["lnF.weight"] += 1
    wanted = [alphabet.index(c) for c in f"{reply}{END}"]
    rng = np.random.default_rng(0)
    codes = rng.normal(0, 1, (len(alphabet), 64)).astype(np.float32)
    for i, token in enumerate(wanted):
        weights["wpe.weight"][len(prompt) - 1 + i] = codes[token]
    weights["lmHead.weight"] = codes
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"type": "bpe", "vocab": list(alphabet), "merges": []})
    )
    return Model(ALPH, config, spec, weights, "", {}, tmp_path / "chat.json")


def test_a_chat_is_a_turn_of_system_003(tmp_path):
    model = chat_model(tmp_path, " hello, you")
    pieces = []
    found = generate(
        model, GenerateOptions(prompt=" hi ", chat=True, sampling=Sampling(0)), pieces.append
    )
    assert found.text == "".join(pieces) == " hello, you"
    assert found.ended == "text"
    asked_for = load_tokenizer(tmp_path / "tokenizer.json").Decode(found.prompt_ids)
    assert asked_for == "<|user|> hi <|assistant|>"
    plain = generate(model, GenerateOptions(prompt="hi Z", tokens=3, sampling=Sampling(0)))
    assert plain.warnings == ["the tokenizer has no 'Z': left out of the prompt"]
    # Positions are learned: the default number of tokens is what is left of them.
    assert len(generate(model, GenerateOptions(prompt="hi")).tokens) == 119
    with pytest.raises(UsageError, match="120 positions; the prompt has 2 tokens, and 120") as e:
        generate(model, GenerateOptions(prompt="hi", tokens=120))
    assert e.value.hint == "ask for --tokens 119 or fewer"
    assert len(generate(model, GenerateOptions(prompt="hi", tokens=119)).tokens) == 119


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "what is the text to begin with"),
        ({"prompt": "a", "prompt_ids": (1,)}, "are two beginnings"),
        ({"prompt_ids": (1,), "chat": True}, "a chat is about text"),
        ({"prompt_ids": (290,)}, "'290' are no tokens of this model"),
        ({"prompt_ids": ()}, "are no tokens of this model"),
        ({"prompt": "a", "cached": False, "kv_cache": "q8_0"}, "leaves nothing to store"),
        ({"prompt": "a", "kv_cache": "tuned", "kv_residual": 4}, "has its own residual"),
        ({"prompt": "a", "tokens": 0}, "tokens is 0"),
        ({"prompt": "a\udcff"}, "is not UTF-8"),
        ({"prompt": "", "bos": False}, "there is nothing to begin with"),
        ({"prompt": "a", "kv_cache": "q9"}, "unknown KV-cache format 'q9'"),
        ({"prompt": "a", "kv_cache": "tuned"}, "no cache was tuned for this model"),
    ],
)
def test_what_does_not_go_together(folder, options, message, monkeypatch, tmp_path):
    monkeypatch.setenv("GOLFPACK_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        generate(load_checkpoint(folder / "c.pt"), GenerateOptions(**options))


def test_tokenizers_that_do_not_fit(folder, tmp_path):
    small = trained_looking(TINY, 7)
    torch.save({n: torch.from_numpy(w) for n, w in small.items()}, tmp_path / "small.pt")
    model = load_checkpoint(tmp_path / "small.pt")
    with pytest.raises(UsageError, match=r"no tokenizer in .*small.pt or beside it"):
        generate(model, GenerateOptions(prompt="a"))
    with pytest.raises(UsageError, match="has 290 tokens, the model 256"):
        generate(model, GenerateOptions(prompt="a", tokenizer=folder / "t.model"))
    with pytest.raises(UsageError, match="has 290 tokens, the model 256"):
        build(
            asked(
                tmp_path / "small.pt", "40kB", data_free=True, dry_run=True, with_tokenizer=True,
                tokenizer=folder / "t.model",
            )
        )  # fmt: skip
    with pytest.raises(UsageError, match="there is no tokenizer beside"):
        build(asked(tmp_path / "small.pt", "40kB", data_free=True, with_tokenizer=True))


def test_a_class_of_the_users_writes_without_a_cache(folder):
    source = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
    source += "    def __init__(self):\n        super().__init__()\n"
    source += "        self.e = nn.Embedding(7, 4)\n        self.h = nn.Linear(4, 7)\n"
    source += "    def forward(self, x):\n        return self.h(self.e(x).cumsum(1))\n"
    (folder / "net.py").write_text(source)
    net: dict = {}
    exec(source, net)
    with torch.random.fork_rng():
        torch.save(net["Net"]().state_dict(), folder / "user.pt")
    model = f"{folder / 'net.py'}:Net"
    with pytest.raises(UsageError, match="cannot be cached for a class of your own") as e:
        golfpack.generate(folder / "user.pt", [1], model=model)
    assert "--no-cache" in str(e.value.hint)
    found = golfpack.generate(folder / "user.pt", [1, 2], model=model, cached=False, tokens=5)
    assert len(found.tokens) == 5


def test_the_command(inside, folder):
    run = inside(
        "generate", "c.golf", "--prompt", "a cat", "--tokens", "20", "--seed", "3", "--threads", "1"
    )
    expected = golfpack.generate(folder / "c.golf", "a cat", tokens=20, seed=3)
    assert run.returncode == 0
    assert run.stdout.startswith("a cat")
    assert "tokens per second, cache k=fp32,v=fp32" in run.stderr
    ids = inside("generate", "c.pt", "--prompt-ids", "1, 5", "--tokens", "3", "--temperature", "0")
    assert len(ids.stdout.split()) == 3
    assert inside("generate", "c.pt", "--prompt-ids", "1,x").returncode == 2
    refused = inside("generate", "c.pt", "--prompt", "The", "--kv-cache", "q9")
    assert (refused.returncode, refused.stdout) == (2, "")
    told = inside(
        "generate", "c.golf", "--prompt", "a cat", "--tokens", "20", "--seed", "3", "--json"
    )
    report = json.loads(told.stdout)
    assert (report["text"], report["tokens"]) == (expected.text, expected.tokens)


def test_stories_write_a_story(shared, tmp_path):
    """From an artifact at 4 bits with the tokenizer inside: words of children's stories, spelt right."""
    stories = shared / "checkpoints" / "stories260K"
    report = build(
        asked(
            stories / "stories260K.bin", "135kB", tmp_path / "s.golf", data_free=True,
            with_tokenizer=True, tokenizer=stories / "tok512.bin",
        )
    )  # fmt: skip
    assert report.artifact_bytes <= 135_000
    found = golfpack.generate(tmp_path / "s.golf", "Once upon a time", tokens=120, temperature=0)
    text = (shared / "data" / "text" / "tinystories_sample.txt").read_text().lower()
    known = {w.strip('.,!?"') for w in text.split()}
    words = [w.strip('.,!?"') for w in (found.text or "").lower().split()]
    assert len(words) > 40
    assert np.mean([w in known for w in words]) > 0.95
