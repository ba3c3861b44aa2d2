"""What people see: statuses, conditions, waiting reasons, Kubernetes Events."""
