"""Pure logic: no I/O, no environment, no clock."""
