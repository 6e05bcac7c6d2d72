"""The network, its losses and its answers: a torch library without settings, bus or store."""
