"""The models of everything that is stored; FORMAT.md is the contract."""
