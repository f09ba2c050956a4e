"""Runs a program from memory: `memfd_run.py PROGRAM [ARGUMENT...]`; a script's interpreter is copied too."""

import os
import shutil
import sys
from pathlib import Path

name, *arguments = sys.argv[1:] or ["/bin/true"]
script = name if name.endswith(".py") else f"{name}.py"
if Path(script).exists() and "/" not in name:
    program, argv = os.path.realpath("/usr/bin/python3"), ["python3", script, *arguments]
else:
    program, argv = shutil.which(name) or name, [name, *arguments]
descriptor = os.memfd_create("m", 0)
with Path(program).open("rb") as source:
    while data := source.read(1 << 20):
        os.write(descriptor, data)
os.execve(descriptor, argv, os.environ)
