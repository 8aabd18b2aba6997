"""From volumes to label maps."""
