"""From manifest lines to batches: audio segments, manifests, target tokens, the dataset."""
