"""Everything that is stored, as models; FORMAT.md is the contract."""
