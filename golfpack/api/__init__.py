"""The stories behind the commands. Nothing here prints; progress goes to a `notify` callback."""
