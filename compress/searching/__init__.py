"""The best recipe under a budget: a space of recipes, trials of it that share a store, and what came of them."""
