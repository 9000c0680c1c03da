"""What l2rfast costs, beside its peers and beside the time that moving the bytes alone would take.

``python -m bench`` measures everything and writes ``bench/reports/cpu.md`` and ``cpu.json``;
``python -m bench --size quick`` tries it in a minute or two. Every figure is made in one run: contestants are first
checked against the float64 reference, then take turns. Whole registrations are measured by ``python -m
bench.registration`` and ``python -m bench.scans``.
"""

UNFINISHED = 2  # how the command ends where it ran out of time, and all is well so far
