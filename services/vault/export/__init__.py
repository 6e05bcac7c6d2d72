"""The export of the bus: what JOBS, CTL and EVT say, as files in all places."""
