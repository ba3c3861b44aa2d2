"""The chart on a real Kubernetes: real pods, and real kills."""
