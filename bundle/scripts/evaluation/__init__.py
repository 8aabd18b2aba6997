"""Scores, intervals, comparison and cross-validation."""
