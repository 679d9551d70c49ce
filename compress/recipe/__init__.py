"""What a recipe asks for, and what comes of it before it runs."""
