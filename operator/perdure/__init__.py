"""Perdure: durable agent workflows for Kubernetes."""

__version__ = "0.1.0"
