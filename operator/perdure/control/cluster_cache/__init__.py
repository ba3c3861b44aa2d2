"""The cluster as last observed, and the relist that repairs it."""
