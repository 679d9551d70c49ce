"""What each target accepts."""
