"""golfpack: the smallest artifact that keeps a language model's quality, under an exact byte budget."""

__version__ = "0.1.0"
