"""The model: speech frontend, adapter and LLM, and what its checkpoints hold."""
