"""What `duramen check` looks at."""
