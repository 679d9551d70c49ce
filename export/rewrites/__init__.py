"""Rewrites of a decode graph."""
