"""Image tokenizers: pictures to tokens and back."""
