"""The bus made whole again from what was exported of it: `duramen recover`."""
