"""The one transformer, the tokenizers, and the families that read checkpoints into them."""
