"""The pure core: what a run is and what happens to it next. No I/O, no clock, no randomness."""
