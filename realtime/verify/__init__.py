"""`realtime verify`: a cluster of real processes, writers, clients that come and go, faults, and a check."""
