"""Benchmarks: side by side, in one run, fsync on, telemetry on."""
