"""Time, energy and memory."""
