"""Checks of manifests: every fault in one pass, with its path and its remedy."""
