"""`python -m bench [NAME...]`: run the measurements named, or all but the soak, and print their figures."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    *("start", "latency", "reading", "overhead", "rules"),
    *("pipeline", "trace", "replay", "gpu", "recorder", "forensics"),
)
LONG = ("soak",)  # takes hours


def main() -> int:
    wanted = sys.argv[1:] or NAMES
    unknown = [name for name in wanted if name not in (*NAMES, *LONG)]
    if unknown:
        print(
            f"no such measurement: {', '.join(unknown)}; there are {', '.join((*NAMES, *LONG))}",
            file=sys.stderr,
        )
        return 2
    for name in wanted:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
