"""Ours against a peer: the same work, in the same run, as a ratio."""
