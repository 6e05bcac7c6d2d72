"""The bus: NATS JetStream behind one small client."""
