"""The trainer: a supervisor that speaks to the bus, and a worker process that trains."""
