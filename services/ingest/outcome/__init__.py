"""The outcome: a queued job, or a report that says why not."""
