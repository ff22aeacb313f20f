"""The options of a golf model. Beyond the baseline, every feature is off by default.

Facts: openai/parameter-golf, the `train_gpt.py` of its records; `docs/record_checkpoints.md` says which
record uses what.
"""

import dataclasses
from dataclasses import dataclass

from golfpack.data.id_lists import index_list, word_start_ids
from golfpack.errors import UsageError
from golfpack.models.golf.texts import number_list

# The words that each option of type str may hold; index lists are checked apart.
CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("relu2", "leaky_relu2", "swiglu"),
    "softcap_kind": ("tanh", "poly"),
    "rope_scaling": ("none", "ntk", "yarn"),
    "value_residual": ("none", "lambda", "sigmoid"),
    "attn_gate": ("none", "affine", "plain", "double"),
    "attn_gate_source": ("input", "query"),
    "smear": ("none", "channels", "window"),
    "bigram_hash": ("xor", "linear", "engram"),
    "final_lane": ("mean", "attn", "mlp"),
    "lane_split": ("early", "late"),
    "lane_mixes": ("attn", "both"),
    "lane_decay": ("own", "both"),
}
# What artifacts have always said of a golf model; those older than an option lack that option.
FIRST_OPTIONS = frozenset({
    "vocab_size", "num_layers", "dim", "num_heads", "num_kv_heads", "mlp_hidden", "passes", "tied",
    "q_gain", "activation", "rope_base", "softcap", "seq_len",
})  # fmt: skip
# Lowest values of the numbers that need not be positive.
_LOWEST: dict[str, int] = {
    "rope_dims": 0, "xsa_last_n": 0, "attn_gate_window": 0, "embed_dim": 0, "smear_window": 0,
    "bigram_size": 0, "bigram_dim": 0, "value_embed_dim": 0, "bos_id": 0, "parallel_start": -1,
    "loop_embeds": 0, "rope_base_odd": 0,
}  # fmt: skip
# The hashes that look at three tokens too, where told to.
_OF_THREE = ("xor", "engram")
ENGRAM_HEADS = 2


@dataclass(frozen=True)
class GolfConfig:
    """Shape and formula of a golf model.

    Attributes:
        num_layers: blocks with weights of their own.
        mlp_hidden: width of the MLP; swiglu's fused `gate_up` has twice as many rows, gate first.
        passes: how often the blocks are run in a row, with a `pass_gate` row for each pass.
        tied: whether the head is the embedding matrix.
        q_gain: whether queries have a learned gain per head.
        activation: relu2 (relu squared), leaky_relu2 (leaky_relu squared), swiglu.
        leaky_slope: slope of leaky_relu2 below zero.
        leaky_slopes: one slope for each block instead, such as "0.1,0.2,0.4".
        softcap: logits z become softcap * tanh(z / softcap).
        softcap_kind: tanh, or poly: its fifth-order polynomial, clamped to +-1.
        seq_len: context length the model was trained at; scoring uses it as the default window.
        rope_dims: leading channels of each head that are rotated; 0 means all.
        rope_base_odd: base of the blocks 1, 3, 5 and so on; 0 means `rope_base`.
        rope_scaling: none; ntk: a larger base for sequences beyond `rope_train_len`; yarn: slower low
            frequencies, by up to `rope_factor`, at every length. See `golf_attention.rotary`.
        rope_train_len: longest sequence that ntk leaves alone.
        rope_factor: yarn's ratio of the extended to the trained length.
        xsa_last_n: in how many last blocks attention output loses its part along the token's own value.
        xsa_strength: whether each head has a learned strength of that, tanh(xsa_alpha), in place of 1.
        value_residual: how the first virtual layer's values join those of later ones: none, lambda
            (two learned weights) or sigmoid (one gate).
        value_embed_dim: width of the token table added to values; 0 means none.
        value_embed_layers: the blocks it is added in, such as "9,10".
        attn_gate: factor on each head's output, from the block's normalised input x: none; affine:
            sigmoid(W x + b); plain: sigmoid(scale * W x[:window]); double: 2 sigmoid(W x[:window]).
        attn_gate_window: leading channels that plain and double look at.
        attn_gate_scale: the scale of plain.
        attn_gate_source: input, or query: plain and double look at the projected query instead.
        ln_scale: whether what block i's attention and MLP read is divided by sqrt(i + 1).
        embed_dim: width of the embedding (and of a tied head) where it is not `dim`; 0 means `dim`.
        smear: how a token's embedding takes in its predecessor's: none; channels: mixed by a gate per
            channel, after normalisation; window: added by a gate of its first `smear_window`
            channels, before normalisation.
        smear_window: channels that the window form looks at.
        bigram_size: rows of the table of hashed token pairs added to the embedding; 0 means none.
        bigram_dim: width of that table.
        bigram_hash: xor or linear, see `BigramHash`, or engram, see `Engram`.
        bigram_multiplier: of the linear hash.
        bigram_trigram: whether the hashed last three tokens are looked up too.
        bos_resets: whether `bos_id` starts a document, into which nothing is smeared or hashed.
        bos_id: the token that starts documents.
        layer_order: the virtual layers as block numbers, such as "0-5,3-5,3-5,6-10"; empty means all
            blocks in order, `passes` times.
        skip_gates: whether skips are blended in by a sigmoid gate per channel, not added.
        parallel_start: first block whose attention and MLP run side by side; -1 means none.
        lanes: residual streams of the parallel blocks: 1 (both branches read and write one), or 2
            (attention reads the first, the MLP the second, learned weights cross them).
        final_lane: what of two lanes goes on to the head: their mean, attn's or mlp's.
        lane_split: where one stream becomes two lanes: early, before the skip of the first parallel
            block joins (attention's lane alone then has it), or late, behind it.
        lane_mixes: which lanes are mixed with the embedding when read: attn's, or both.
        lane_decay: own: each lane is multiplied by its own residual weight; both: by either, attention's
            when its output joins and the MLP's when that does.
        loop_embeds: rows of `loop_embed`; row k is added to the stream before the k-th run of the first
            repeated block. 0 means none.
        resid_norm: whether the stream is normalised wherever a skip has joined it.
        bigram_split: whether hashed pairs and triples whose last token starts a word have one half of
            the table, and all others the other half.
        word_boost: whether what the table gives at a word's first token is multiplied by
            `word_start_boost`.
        word_starts: the tokens that start a word, from the tokenizer: a text of `word_start_text`,
            their ids as "3,7-9", or none; "" where nothing depends on it.

    Raises:
        UsageError: a value out of its range, or values that do not fit each other.
    """

    vocab_size: int
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    mlp_hidden: int
    passes: int = 1
    tied: bool = True
    q_gain: bool = True
    activation: str = "relu2"
    rope_base: float = 10000.0
    softcap: float = 30.0
    seq_len: int = 1024
    leaky_slope: float = 0.5
    softcap_kind: str = "tanh"
    rope_dims: int = 0
    rope_scaling: str = "none"
    rope_train_len: int = 1024
    rope_factor: float = 1.0
    xsa_last_n: int = 0
    value_residual: str = "none"
    value_embed_dim: int = 0
    value_embed_layers: str = ""
    attn_gate: str = "none"
    attn_gate_window: int = 0
    attn_gate_scale: float = 1.0
    attn_gate_source: str = "input"
    ln_scale: bool = False
    embed_dim: int = 0
    smear: str = "none"
    smear_window: int = 0
    bigram_size: int = 0
    bigram_dim: int = 0
    bigram_hash: str = "xor"
    bigram_multiplier: int = 92821
    bigram_trigram: bool = False
    bos_resets: bool = False
    bos_id: int = 1
    layer_order: str = ""
    skip_gates: bool = False
    parallel_start: int = -1
    lanes: int = 1
    final_lane: str = "mean"
    lane_split: str = "early"
    lane_mixes: str = "attn"
    lane_decay: str = "own"
    loop_embeds: int = 0
    resid_norm: bool = False
    bigram_split: bool = False
    word_boost: bool = False
    word_starts: str = ""
    xsa_strength: bool = False
    rope_base_odd: float = 0.0
    leaky_slopes: str = ""

    def __post_init__(self) -> None:
        self._check_values()
        self._check_attention()
        self._check_embedding()
        self._check_layers()

    def _check_values(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in _LOWEST and value < _LOWEST[f.name]:
                raise UsageError(
                    f"model option {f.name} must be at least {_LOWEST[f.name]}, not {value}"
                )
            if f.type in (int, float) and f.name not in _LOWEST and not value > 0:
                raise UsageError(f"model option {f.name} must be positive, not {value}")
            if f.name in CHOICES and value not in CHOICES[f.name]:
                raise UsageError(
                    f"unknown {f.name} {value!r}", f"choose from {', '.join(CHOICES[f.name])}"
                )

    def _check_attention(self) -> None:
        if self.dim % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads with {self.num_kv_heads} KV heads do not fit dim "
                f"{self.dim}",
                "heads must divide dim into even parts, and KV heads must divide heads",
            )
        if self.rope_dims % 2 or self.rope_dims > self.head_dim:
            raise UsageError(
                f"rope_dims is {self.rope_dims}, the heads have {self.head_dim} channels",
                "it must be even and no more than that; 0 rotates all",
            )
        slopes = number_list(self.leaky_slopes, "leaky_slopes")
        if slopes and (len(slopes) != self.num_layers or self.activation != "leaky_relu2"):
            raise UsageError(
                f"leaky_slopes has {len(slopes)} slopes; there are {self.num_layers} blocks with "
                f"activation {self.activation}",
                "give each block one, with activation leaky_relu2; or leave leaky_slopes out",
            )
        if self.rope_scaling == "ntk" and self.rotated_dims == 2:
            raise UsageError("ntk scaling needs more than 2 rotated channels", "set rope_dims")
        if (self.attn_gate in ("plain", "double")) != (0 < self.attn_gate_window <= self.dim):
            raise UsageError(
                f"attn_gate {self.attn_gate} does not go with attn_gate_window "
                f"{self.attn_gate_window}",
                f"plain and double look at 1 to {self.dim} channels; the others need 0",
            )

    def _check_embedding(self) -> None:
        if (self.smear == "window") != (0 < self.smear_window <= self.embed_width):
            raise UsageError(
                f"smear {self.smear} does not go with smear_window {self.smear_window}",
                f"the window form looks at 1 to {self.embed_width} channels; the others need 0",
            )
        self._check_bigram()
        if self.needs_word_starts != bool(self.word_starts):
            raise UsageError(
                "bigram_split and word_boost depend on which tokens start a word"
                if self.needs_word_starts
                else "word_starts is told, but nothing in the model depends on it",
                "give --tokenizer, or set word_starts to their ids, such as 3,7-9"
                if self.needs_word_starts
                else "leave word_starts out",
            )
        if max(word_start_ids(self.word_starts), default=0) >= self.vocab_size:
            raise UsageError(
                f"word_starts names tokens beyond the vocabulary of {self.vocab_size}",
                "is it of this model's tokenizer?",
            )
        layers = index_list(self.value_embed_layers, "value_embed_layers")
        if len(set(layers)) != len(layers) or bool(layers) != (self.value_embed_dim > 0):
            raise UsageError(
                f"value_embed_layers {self.value_embed_layers!r} does not go with value_embed_dim "
                f"{self.value_embed_dim}",
                "name each block once; without a table, leave both out",
            )
        if layers and max(layers) >= self.num_layers:
            raise UsageError(f"value_embed_layers names block {max(layers)}, there are fewer")

    def _check_bigram(self) -> None:
        if (self.bigram_size > 1) != (self.bigram_dim > 0) or self.bigram_size == 1:
            raise UsageError(
                f"a bigram table of {self.bigram_size} x {self.bigram_dim} cannot be looked up in",
                "set both bigram_size (2 or more) and bigram_dim, or neither",
            )
        if self.bigram_trigram and self.bigram_hash not in _OF_THREE:
            raise UsageError(
                f"the {self.bigram_hash} hash knows pairs alone", "leave bigram_trigram out"
            )
        if (self.bigram_split or self.word_boost) and self.bigram_hash == "engram":
            raise UsageError(
                "engram tables know no word starts", "leave bigram_split and word_boost out"
            )
        if self.bigram_split and self.bigram_hash != "xor":
            raise UsageError("only the xor hash has a split table", "leave bigram_split out")
        if self.bigram_hash == "engram" and self.bigram_size % self.engram_tables:
            raise UsageError(
                f"{self.bigram_size} rows are not {self.engram_tables} engram tables of equal size",
                "see bigram_size and bigram_trigram",
            )
        if self.bigram_split and self.bigram_size < 3:
            raise UsageError("bigram_split needs a table of 3 rows or more", "see bigram_size")
        if self.word_boost and not self.bigram_size:
            raise UsageError(
                "word_boost boosts a bigram table, and there is none", "see bigram_size"
            )

    def _check_layers(self) -> None:
        order = index_list(self.layer_order, "layer_order")
        if order and set(order) != set(range(self.num_layers)):
            raise UsageError(
                f"layer_order {self.layer_order!r} does not run each of the blocks 0 to "
                f"{self.num_layers - 1}, and only those",
                "list every block at least once, such as 0-5,3-5,6-10 for 11 blocks",
            )
        if order and self.passes > 1:
            raise UsageError("layer_order and passes both repeat blocks", "use one of them")
        if self.lanes > 2 or (self.lanes == 2 and self.parallel_start < 0):
            raise UsageError(
                f"{self.lanes} lanes do not go with parallel_start {self.parallel_start}",
                "there are 1 or 2 lanes; two need the first parallel block",
            )
        self._check_loops()

    def _check_loops(self) -> None:
        runs = self.order.count(self.loop_start) if self.loop_start is not None else 0
        if self.loop_embeds and runs != self.loop_embeds:
            raise UsageError(
                f"loop_embeds is {self.loop_embeds}, but in layer_order {self.layer_order!r} the first "
                f"repeated block runs {runs} times",
                "each of its runs has a row of loop_embed",
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def rotated_dims(self) -> int:
        return self.rope_dims or self.head_dim

    @property
    def embed_width(self) -> int:
        return self.embed_dim or self.dim

    @property
    def engram_tables(self) -> int:
        """The tables that an engram stacks: for each number of tokens it looks at, one per head."""
        return ENGRAM_HEADS * (2 if self.bigram_trigram else 1)

    @property
    def slopes(self) -> tuple[float, ...]:
        """The slope of each block's activation below zero; relu2's is 0."""
        if self.activation != "leaky_relu2":
            return (0.0,) * self.num_layers
        own = number_list(self.leaky_slopes, "leaky_slopes")
        return own or (self.leaky_slope,) * self.num_layers

    @property
    def order(self) -> tuple[int, ...]:
        """The block that each virtual layer runs."""
        return index_list(self.layer_order, "layer_order") or tuple(range(self.num_layers)) * int(
            self.passes
        )

    @property
    def loop_start(self) -> int | None:
        """The first block that runs more than once."""
        return next((b for b in self.order if self.order.count(b) > 1), None)

    @property
    def needs_word_starts(self) -> bool:
        return self.bigram_split or self.word_boost

    @property
    def virtual_layers(self) -> int:
        return len(self.order)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """The blocks whose values a token table is added to."""
        return index_list(self.value_embed_layers, "value_embed_layers")
