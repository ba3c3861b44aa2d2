"""Generators: CustomResourceDefinitions and reference pages from the models."""
