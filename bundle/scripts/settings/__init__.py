"""What is checked before work starts, and what a run records."""
