"""Evolution: reads snapshots, keeps life lines, answers questions about learning."""
