"""Measurements: programs with progress on standard error, a table, and `--json`. Ratios in one run say something here;
seconds of one machine do not hold on another.

Clients by the thousand are one program in C (receivers.c), so that the server is what is measured.
"""
