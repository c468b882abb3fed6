"""The pages of docs: every block of code in them is run."""
