"""`make demo`: a real workflow on a real cluster, an agent killed in the middle, and its replacement."""
