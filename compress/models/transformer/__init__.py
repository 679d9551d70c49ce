"""The image-token transformer."""
