"""What several rooms of the package use."""
