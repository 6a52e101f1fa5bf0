"""What do the imports of a program that reads cost?

Timed is the importing thread's own time in a fresh interpreter, its start left out, files in memory:
`import arena` with what attach needs. Baseline: `import numpy`, without which nothing reads.
"""

import subprocess
import sys

from harness import Report, SelfTimed, alternate, arguments

PROGRAM = """
import time
begin = time.thread_time()
{code}
print(time.thread_time() - begin)
"""


def fresh(code: str) -> SelfTimed:
    """CPU seconds that `code` took in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
    )
    return SelfTimed(done.stdout)


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    numpy, reader = alternate(
        [
            ("import numpy", 1, lambda: fresh("import numpy")),
            ("import arena; arena.attach", 1, lambda: fresh("import arena; arena.attach")),
        ],
        options.repeat,
    )
    report.add(numpy)
    report.add(reader).ratio = report.compare(reader, numpy)
    report.limit(reader, 50e6, over=numpy)
    report.show(options)


if __name__ == "__main__":
    main()
