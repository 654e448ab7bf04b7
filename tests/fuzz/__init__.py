"""Requests that nobody would make on purpose: `make fuzz` makes many thousands of them, the tests some hundreds."""
