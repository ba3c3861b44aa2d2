"""Who may write: the Lease, its holder, and the client fenced by it."""
