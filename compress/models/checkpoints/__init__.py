"""Checkpoints from disk, and what their numbers say."""
