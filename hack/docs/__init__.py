"""Generators of documentation pages from the code's own tables and comments."""
