"""A recipe from its first pass to its report."""
