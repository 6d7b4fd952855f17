"""Tocsin: a small Flask service that looks after itself.

Two wings stand on one ground floor. `web/` answers HTTP, `monitor/` watches and tells; neither imports the
other. Below both lie the modules of this folder: `settings` (the environment) and `configuration`
(monitor.yaml, read by `document`), with the kinds of value both share in `values`; `logs` (one JSON line each),
`measure` and `cgroup` (the machine as numbers), `database` (tables, with `migrations/`), `signing` (of webhooks) and
`server` (what gunicorn takes from us). `cli` is the `tocsin` command; nothing imports it.
"""
