"""The streams as folded: jobs, lineages, commands, leases. No I/O but the bus."""
