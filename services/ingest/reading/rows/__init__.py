"""The reading of one row: its fields, its turns, and every key that changes what they mean."""
