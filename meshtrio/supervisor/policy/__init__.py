"""What is to be done: pure functions and tables, that know no clock, process or task."""
