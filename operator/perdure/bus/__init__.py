"""Events on their way out: the relay into JetStream, and subscriptions. Only this package imports nats."""
