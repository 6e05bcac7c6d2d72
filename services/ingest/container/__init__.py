"""The containers of training files: recognised by name, unpacked while they are read."""
