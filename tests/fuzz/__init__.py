"""Many made-up inputs and moments, on request; a sample runs with the tests."""
