"""The columns of the per-tensor table: what each figure is called, and what it means."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A field of `TensorReport` as people see it; `format` is Python's, "" for text."""

    name: str
    header: str
    explanation: str
    format: str = ""


COLUMNS = (
    Column("name", "tensor", "the tensor's name in the checkpoint"),
    Column("role", "role", "what the tensor does in the network"),
    Column("shape", "shape", "rows x columns"),
    Column("scheme", "scheme", "width of the codes in use and kind of steps, or a float type"),
    Column("bytes", "bytes", "its share of the file, steps included", ",d"),
    Column("side_bytes", "side", "the part of its bytes that is steps and row orders", ",d"),
    Column("bpw", "bpw", "bits per weight: 8 bytes / weights", ".2f"),
    Column("entropy", "entropy", "order-0 entropy of its codes, bits per weight", ".2f"),
    Column("rel_err", "rel_err", "|W - Wq| / |W|: the relative error of its weights", ".4f"),
    Column("sqnr_db", "SQNR dB", "signal to quantisation noise: -20 log10(rel_err)", ".1f"),
    Column("kl_share", "KL share", "the part of the predicted KL that it causes", ".1%"),
    Column("predicted_kl", "predicted KL", "KL increase it causes, nats per token", ".2e"),
    Column("zeros", "zeros", "fraction of codes that are 0", ".1%"),
    Column("bits_over_rd", "over R(D)", "bpw above Shannon's bound at its distortion", ".2f"),
)
