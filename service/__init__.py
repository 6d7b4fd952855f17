"""Tocsin: a small Flask service that looks after itself.

Two wings stand on one ground floor. `web/` answers HTTP, `monitor/` watches and tells; neither imports the
other. Below both lie the modules of this folder:

- `settings` (the environment) and `configuration` (what monitor.yaml can say: `conditions`, `matchers`, a `receiver`; `loading`
  checks it, `document` reads it), with the kinds of value all share in `values`; `checking` (what people send); `logs` (one
  JSON line each, of the `fields` that there are).
- `measure`, `cgroup` and `recent` (the machine as numbers).
- `database` (the way to its `tables` and `migrations/`), read in `pages`: `silences`, `alerts` and `notifications` (what is
  told, and what is not), `readings`, `occurrences` and `targets` (how it was and is), `history` (what is kept how long),
  `totals` (what /metrics tells of it).
- `reports/` (how a time was; `plot` draws its lines, and those of the page; `spreadsheet` writes its CSV).
- `jobs` and `runs` (work that is done at its time: `triggers` say when, `crontab` reads its line), `backup` (copies of the
  database).
- `services` (what can be restarted), `supervision/` (how it is: supervisord, systemd, Docker) and `restarts` (one restart,
  whoever asks for it; one at a time, as `holds` sees to), `plugin` (what `tocsin check` answers).
- `signing` (of webhooks), `chat/` (chat services, and what they are told), `receive` (a receiver to try things out with),
  `alive` and `notify` (the monitor's sign of life, to supervise.py and to systemd), `server` (what gunicorn takes from us) and
  `counting` (where its workers count together).

`cli` is the `tocsin` command; nothing imports it.
"""
