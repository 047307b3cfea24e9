"""Ops: what watches runwire, rendered from one file of numbers. Needs the extra `ops`; nothing that serves does."""
