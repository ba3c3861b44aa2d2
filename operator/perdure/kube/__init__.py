"""Kubernetes: client of the API server, reflector, event recorder, token verifier, manifests of pods."""
