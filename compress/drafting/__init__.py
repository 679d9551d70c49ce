"""Recipes to begin with: `compress init` looks at a checkpoint or at pictures, and writes what suits them."""
