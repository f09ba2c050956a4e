"""The scoreboard: scenarios of attack and of honest work, run for real and held against what is expected.

`python -m bench.scoreboard` (./dev scoreboard). What takes part:

    scenarios.jsonl   our own scenarios, in the format of the corpus
    scenarios.py      reads both, and makes a pseudo-command into one that a shell runs
    sandbox.py        where the command runs: its own files, processes, devices and network
    internet/         the only network it reaches: every address, all services, in one namespace
    agent/            the programs that the commands name, and a stand-in for tools that are absent
    trial.py          one run under watch
    offline.py        the same scenario judged by its written events, where it cannot run
    score.py          verdicts against expectations, by family, with intervals
    report.py         the table, and docs/scoreboard.md
"""
