"""Container images without a registry or a container engine: stand-ins, build contexts, builds."""
