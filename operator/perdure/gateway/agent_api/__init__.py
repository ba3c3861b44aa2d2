"""Route family `/agent/v1`: the operations that an agent may perform on its own task."""
