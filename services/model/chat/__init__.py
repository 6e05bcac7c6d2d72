"""A conversation in the words of a template, and what is learned of it."""
