"""What is known of the code of one model's script, so that the bundler can leave out the rest.

Keys are expressions as they stand in the modules they are known in; `golfpack.export.fold` puts the
values in their places.
"""

from collections.abc import Mapping
from typing import Any

from golfpack.models.golf.config import GolfConfig

_GOLF = "golfpack.models.golf"
_EVAL = "golfpack.eval"
_SCRIPT = "golfpack.submission.script"


def known_values(cfg: GolfConfig, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known, by "module:expression".

    Args:
        kind, options: of test-time training; "" for none.
    """
    told = {f"{_GOLF}.{module}:{e}": v for module, e, v in _network(cfg)}
    script: dict[str, Any] = {
        "TTT_KIND": kind,
        "TTT_OPTIONS": dict(options),
        "GolfConfig(**CONFIG)": None,  # nothing of it is asked for any more
        'CONFIG["vocab_size"]': cfg.vocab_size,
        'CONFIG["seq_len"]': cfg.seq_len,
        "CONFIG": {},
    }
    told |= {f"{_SCRIPT}:{e}": v for e, v in script.items()}
    return told | _scoring(options)


def _network(cfg: GolfConfig) -> list[tuple[str, str, Any]]:
    """(module, expression, value) in the network's code: the model's options, and what follows.

    What follows from them holds for each of its blocks, in a network that keeps no cache.
    """
    options = {n: getattr(cfg, n) for n in vars(cfg)}
    options |= {n: getattr(cfg, n) for n, v in vars(GolfConfig).items() if isinstance(v, property)}
    found: list[tuple[str, str, Any]] = [
        (module, f"{holder}.{name}", value)
        for module in ("attention", "embed", "net")
        for holder in ("cfg", "self.cfg")
        for name, value in options.items()
    ]
    found.append(("family", "model.cfg.tied", cfg.tied))
    for module in ("attention", "net"):
        found += [(module, "cache", None), (module, "ctx.cache", None)]
    found += [("attention", "start", 0), ("attention", "ctx.mask", None)]
    found.append(("net", "self.activation", cfg.activation))
    found.append(("net", "self.loops", len(cfg.order) > cfg.num_layers))  # off in training alone
    if not cfg.ln_scale:
        found.append(("net", "self.divisor", 1.0))
    if cfg.parallel_start < 0:
        found.append(("net", "self.parallel", False))
    if cfg.lanes == 1:
        found += [("net", "lane", None), ("net", "starts", False)]
    if cfg.xsa_last_n in (0, cfg.num_layers):
        found.append(("attention", "self.exclusive", cfg.xsa_last_n > 0))
    if not cfg.value_embed_dim:
        found += [("net", "self._value_scale(b)", None), ("net", "value_scale", None)]
        found += [("attention", "value_scale", None), ("attention", "ctx.token_values", None)]
    if not cfg.rope_base_odd:
        found.append(("attention", "self.turn", 0))
    return found


def _scoring(options: Mapping[str, Any]) -> dict[str, Any]:
    """In the code that scores: nobody looks on, nothing is compiled, and the network is golf's."""
    found: dict[str, Any] = {
        # A golf network's head comes last: it alone decides what the positions are needed for.
        f"{_EVAL}.scorer:self._heads and not self._only_last_is_exact()": False,
        f"{_EVAL}.scorer:compiled": None,
        f"{_EVAL}.scorer:self.seen is not None": False,
        f"{_EVAL}.log:self._progress is not None": False,
        f"{_EVAL}.log:self._bytes is not None": False,
        "golfpack.data.shards:path.suffix in _LISTS": False,
    }
    if not options.get("hash_embed"):
        found[f"{_GOLF}.net:self.pairs"] = None
        found[f"{_EVAL}.ttt_sgd:self.ttt.hash_embed"] = 0
    for module in ("modes", "ttt_sgd", "ttt_lora", "ttt_phased"):
        found[f"{_EVAL}.{module}:dataclasses.asdict(self)"] = {}  # what reports tell of a mode
    return found
