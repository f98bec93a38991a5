"""The command line, and what an operator does with it."""
