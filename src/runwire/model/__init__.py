"""What a run, an event and an agent's graph are. Pure: no I/O, no clock."""
