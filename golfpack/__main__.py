"""`python -m golfpack`."""

from golfpack.cli import main

main()
