"""The compiler process: eBPF C in, bytecode out. Run as a script by `agentwatch.kernel.compile`.

It imports nothing of agentwatch, so that `python -I` can run it by path; LLVM lives and dies here.
Standard input: JSON {"text": C source, "cflags": [...]}. Standard output: msgpack {function name:
bytecode}. Standard error: the compiler's diagnostics.
"""

from __future__ import annotations

import json
import os
import sys

NO_BCC = 3
"""Exit status where `import bcc` fails."""


def main() -> int:
    # BCC and LLVM print on standard output too: keep it for the result alone.
    with os.fdopen(os.dup(1), "wb") as result:
        os.dup2(2, 1)
        request = json.load(sys.stdin)
        try:
            from bcc import BPF  # type: ignore[import-untyped]  # noqa: PLC0415
            from bcc.libbcc import lib  # type: ignore[import-untyped]  # noqa: PLC0415
        except (ImportError, OSError) as error:
            print(error, file=sys.stderr)
            return NO_BCC
        import msgpack  # type: ignore[import-untyped]  # noqa: PLC0415

        try:
            compiled = BPF(text=request["text"].encode(), cflags=request["cflags"])
        except Exception as error:  # BCC raises bare Exceptions
            print(error, file=sys.stderr)
            return 1
        names = [
            lib.bpf_function_name(compiled.module, i) for i in range(lib.bpf_num_functions(compiled.module))
        ]
        result.write(msgpack.packb({name.decode(): compiled.dump_func(name) for name in names}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
