"""One model against another, without a recipe."""
