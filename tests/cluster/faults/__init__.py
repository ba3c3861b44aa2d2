"""One workload, disturbed in every way that a control plane and a node can be disturbed."""
