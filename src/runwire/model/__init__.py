"""The types of runs, events and agents' graphs. Pure: no I/O, no clock."""
