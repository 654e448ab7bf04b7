"""The command: what happens as it happens, then a row for each client, then the sum."""

import argparse
import asyncio
import sys

from tests.chaos.run import Account, run

HEAD = (
    f"{'client':12}{'expected':>10}{'received':>10}{'lost':>7}{'doubled':>9}{'out of order':>14}"
    f"{'longest without':>17}{'connections':>13}"
)


def row(account: Account) -> str:
    return (
        f"{account.name:12}{account.expected:10,}{account.received:10,}{account.lost:7,}{account.doubled:9,}"
        f"{account.out_of_order:14,}{account.longest:15.1f} s{account.connections:13,}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--broker", choices=["db:", "redis:"], default="db:", help="default: db: (on SQLite)")
    parser.add_argument("--seconds", type=float, default=300, help="how long it publishes (default: 300)")
    parser.add_argument("--streams", type=int, default=100, help="clients that hold a stream (default: 100)")
    parser.add_argument("--polls", type=int, default=20, help="clients that poll each second (default: 20)")
    parser.add_argument("--rate", type=float, default=100, help="events published per second (default: 100)")
    options = parser.parse_args()

    print(
        f"{options.streams} streams and {options.polls} polling clients, {options.rate:g} events/s for "
        f"{options.seconds:g} s, {options.broker} gunicorn with 3 workers behind nginx",
        flush=True,
    )
    accounts = asyncio.run(
        run(
            options.broker,
            options.seconds,
            streams=options.streams,
            polls=options.polls,
            rate=options.rate,
            say=lambda text: print(text, flush=True),
        )
    )
    print(f"\n{HEAD}")
    for account in accounts:
        print(row(account))
    total = Account(
        name="all",
        expected=sum(account.expected for account in accounts),
        received=sum(account.received for account in accounts),
        lost=sum(account.lost for account in accounts),
        doubled=sum(account.doubled for account in accounts),
        out_of_order=sum(account.out_of_order for account in accounts),
        longest=max(account.longest for account in accounts),
        connections=sum(account.connections for account in accounts),
        gaps=sum(account.gaps for account in accounts),
    )
    print(f"{HEAD}\n{row(total)}\n")
    print("Every client saw every event once and in order." if total.faultless else "FAILED: see the rows above.")
    return 0 if total.faultless and total.expected else 1


if __name__ == "__main__":
    sys.exit(main())
