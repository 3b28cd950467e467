"""The LLM as a fairseq decoder."""
