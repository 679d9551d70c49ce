"""Training: the loop, the transformer, the tokenizer."""
