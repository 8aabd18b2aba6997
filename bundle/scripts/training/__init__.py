"""Handlers, checkpoint and tracking of a training."""
