"""Tocsin: a small Flask service that looks after itself.

Two wings stand on one ground floor. `web/` answers HTTP, `monitor/` watches and tells; neither imports the
other. Below both lie the modules of this folder: `settings` (the environment) and `configuration`
(what monitor.yaml can say: `conditions`, `matchers`; `loading` checks it, `document` reads it), with the kinds of value
all share in `values`; `logs` (one JSON line each), `measure` and `cgroup` (the machine as numbers), `database` (the way to
its `tables` and `migrations/`), `silences` and `alerts` (what both wings read and write there), `services` (what can be
restarted), `supervision/` (how it is: supervisord, systemd, Docker) and `restarts` (one restart, whoever asks for it),
`signing` (of webhooks), `chat` (addresses of chat services), `receive` (a receiver to try things out with), `alive` (the
monitor's sign of life) and `server` (what gunicorn takes from us). `cli` is the `tocsin` command; nothing imports it.
"""
