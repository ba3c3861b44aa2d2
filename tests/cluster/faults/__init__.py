"""The fault matrix: one workload, and every fault of a control plane and a node."""
