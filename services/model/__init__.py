"""The network and what is asked of it: a torch library without settings, bus or store."""
