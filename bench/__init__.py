"""What Tocsin costs, side by side with others, in one run on this machine: `make bench` writes RESULTS.md.

Each module with a function `bench` measures one thing and yields rows for the table, or curves that show how a cost grows.
`peers` starts those it is compared with, `process` reads what a process costs, `result` says what a figure means; `report`
and `chart` write it down, with the `machine` it ran on. tests/test_bench.py runs each once, tiny.
"""
