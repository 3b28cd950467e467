"""What several tests use: tiny backbones, runs of the commands, pretended devices and processes."""
