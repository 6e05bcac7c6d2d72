"""The trainer: a supervisor that communicates over the bus, and a worker process that trains."""
