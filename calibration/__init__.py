"""Tokens and statistics that passes calibrate with; knows numpy and torch, never `compress`."""
