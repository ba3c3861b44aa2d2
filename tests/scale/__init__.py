"""Large runs on simulated nodes: what must stay small stays small, and nothing gets lost."""
