"""Evaluation of what people wrote, outside of decisions."""
