"""Measures the CPU cost of telemetry: the same build with it off and on, in one process, interleaved."""
