"""Leadership: the Lease, its holder, and the client that is fenced by it."""
