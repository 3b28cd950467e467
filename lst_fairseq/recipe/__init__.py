"""The recipe's steps: where its scripts lie, and the engine that each of their commands goes through."""
