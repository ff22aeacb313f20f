"""The trainer: token streams in, float checkpoints of the golf family out."""
