"""The control loop: what the operator sees, decides, commits, does and shows."""
