"""The decision: what a run is, and what happens to it next."""
