"""What every part of the package may use and that knows none of them."""
