"""The names that the broker uses in Redis: everything under `realtime:`, one prefix a purpose."""

from __future__ import annotations

LOG = "realtime:log:"  # + channel: a stream of events; also the name that they are published under
META = "realtime:meta:"  # + channel: a hash of epoch, offset, version, server
LEASE = "realtime:lease:"  # + store: the holder's token
MARK = "realtime:mark:"  # + store: where its changes go on
NODE = "realtime:node:"  # + node: what a node listens to for as long as it lives
TICKET = "realtime:ticket:"  # + digest of a one-time ticket: whose it is
