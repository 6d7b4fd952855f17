"""The wing that watches.

Of several monitors on one database one works, which `leader` finds out; the others wait.

Each tick, `loop` reads the `clock` once and asks every target (`probe`, over `exchange`
and its `connections`), where there is `room` for it.
`watch` holds all alerts in memory: by `matching` it knows which rule is about what; it lets `rules` decide what fires,
`healing` whether a service is restarted for it, and `routing` who is to be told. `store` commits what is `unsaved`: the
new states together with the notifications they cause; while it cannot, `trouble` tells people so. After the commit
`restarter` restarts, beside the ticks, what was decided on. `outbox` puts what waits for a receiver into messages (`composing`)
and commits them; `delivery` sends them (`sending`) on a thread of its own, one for each receiver, in the shape that
`receivers` gives them, and marks them after the 2xx; who answers 410 is `gone`. So a monitor killed anywhere goes on where
it stood.
Beside the ticks `jobs` looks which job is due; `claims` notes its run before `tasks` does what it is there for.
`heartbeat` lets somebody outside notice when there are no ticks.
"""
