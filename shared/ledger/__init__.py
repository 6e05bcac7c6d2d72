"""The folds of the streams: jobs, lineages, commands, leases. The bus is their only I/O."""
