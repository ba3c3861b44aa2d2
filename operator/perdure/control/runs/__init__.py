"""One pass over one run: observe, decide, commit, act, clean up."""
