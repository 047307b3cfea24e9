"""What telemetry costs in CPU: the same build with it off and on, in one process, interleaved."""
