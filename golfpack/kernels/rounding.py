"""What every rounding with error feedback has in common, on the CPU and on a device; no torch here."""

# Columns whose feedback is applied at once as one matrix product; within a block it is column by
# column. Any value gives the same codes up to float64 rounding.
BLOCK = 64
# bits(k + 1) - bits(k) of a Gaussian of precision p is log2(e) / 2 (2 k + 1) p.
HALF_LOG2_E = 0.7213475204444817


def largest_code(limit: int | None, *, single: bool) -> float:
    """The limit of codes, by default int32's.

    Args:
        limit: None for what int32 holds.
        single: worked out in float32, which has no number between 2^31 - 128 and 2^31.
    """
    if limit is not None:
        return float(limit)
    return float(2**31 - 128 if single else 2**31 - 1)
