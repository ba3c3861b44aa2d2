"""The parts of the audit that need no cluster."""
