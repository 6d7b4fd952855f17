"""The wing that watches.

Each tick, `loop` reads the clock once, asks every target (`probe`, over `exchange`), lets `rules` decide what
changed, and commits the new states together with the notifications they cause. `outbox` puts what waits for a
receiver into one message and commits it; `delivery` sends it on a thread of its own, one for each receiver, in the
shape that `receivers` gives it, and marks it after the 2xx. So a monitor killed anywhere goes on where it stood.
"""
