"""The wing that watches.

Each tick, `loop` reads the clock once, asks every target (`probe`, over `exchange`), lets `rules` decide what
changed, and commits the new states together with the notifications they cause. `outbox` sends those on threads of
its own, one for each receiver, in the shape that `receivers` gives them; it marks a notification delivered after
the receiver said 2xx, so that a monitor killed anywhere goes on where it stood.
"""
