"""The delivery of events: the relay into JetStream, and subscriptions. Only this package imports nats."""
