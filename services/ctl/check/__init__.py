"""What `duramen check` reads, each room named for what its checks look at."""
