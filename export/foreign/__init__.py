"""Graphs that other tools wrote."""
