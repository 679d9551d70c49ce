"""What the pictures are worth."""
