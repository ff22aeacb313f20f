"""Numbers that commands, the API and what they call take where none is given; as light as its import."""

# Calibration: enough for the plan to settle, little enough to take seconds.
CALIB_TOKENS = 32_768
# Enough for a bpb that tells recipes apart, little enough for minutes on one core.
EVAL_TOKENS = 65_537
KL_TOKENS = 8_192
# What the challenge lets code and artifact have together (openai/parameter-golf, README).
SUBMISSION_BYTES = 16_000_000
