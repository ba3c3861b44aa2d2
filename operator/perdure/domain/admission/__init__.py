"""Static analysis of a manifest, before a run starts."""
