"""What every service runs on: loops, health, HTTP."""
