"""Token sets and pictures that users bring."""
