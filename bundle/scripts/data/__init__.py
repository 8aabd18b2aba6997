"""From cases to batches."""
