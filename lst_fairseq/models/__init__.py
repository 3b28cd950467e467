"""The model: speech frontend, adapter and LLM, what its checkpoints hold, and how each part is loaded."""
