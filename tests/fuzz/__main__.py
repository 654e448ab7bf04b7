"""The command: every property test of the project with many random cases, and a line for each."""

import re
import sys
from typing import Any

import pytest

ENOUGH = 10_000  # cases in all; fewer is a failure, as something was not run


class Tally:
    """Keeps how many cases each property was tried with."""

    def __init__(self) -> None:
        self.cases: dict[str, int] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: Any) -> None:
        statistics = getattr(item, "hypothesis_statistics", "")
        counts = re.findall(r"(\d+) passing, (\d+) failing", statistics)
        self.cases[item.nodeid] = sum(int(count) for phase in counts for count in phase)


def main() -> int:
    tally = Tally()
    chosen = ["-m", "hypothesis", "--hypothesis-profile", "fuzz", *sys.argv[1:]]
    failed = pytest.main([*chosen, "--timeout", "1800", "--quiet", "-p", "no:logging"], [tally])
    total = sum(tally.cases.values())
    print()
    for target, cases in tally.cases.items():
        print(f"{cases:8,}  {target}")
    print(f"{total:8,}  cases in all")
    if not failed and total < ENOUGH:
        print(f"FAILED: fewer than {ENOUGH:,}.")
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
