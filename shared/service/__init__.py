"""The parts that every service runs on: loops, health, HTTP."""
