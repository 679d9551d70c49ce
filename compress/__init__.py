"""Make trained image-token transformers small and fast, and prove what was lost and won at every step."""
