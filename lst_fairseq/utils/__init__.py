"""What several parts of the package use and none of them owns."""
