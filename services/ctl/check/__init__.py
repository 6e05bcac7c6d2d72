"""The checks of `duramen check`, each module named for what its checks look at."""
