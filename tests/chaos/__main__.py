"""The command: what happens as it happens, then a row for each client, then the sum."""

import argparse
import asyncio
import sys

from tests.chaos.run import Account, run

HEAD = (
    f"{'client':13}{'channels':32}{'expected':>10}{'received':>10}{'lost':>7}{'doubled':>9}{'out of order':>14}"
    f"{'gaps':>6}{'unjustified':>13}{'longest without':>17}{'connections':>13}"
)


def row(account: Account) -> str:
    return (
        f"{account.name:13}{account.channels:32}{account.expected:10,}{account.received:10,}{account.lost:7,}"
        f"{account.doubled:9,}{account.out_of_order:14,}{account.gaps:6,}{account.unjustified:13,}"
        f"{account.longest:15.1f} s{account.connections:13,}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--broker", choices=["db:", "redis:"], default="db:", help="default: db: (on SQLite)")
    parser.add_argument("--seconds", type=float, default=300, help="how long it publishes (default: 300)")
    parser.add_argument("--streams", type=int, default=100, help="clients that hold a stream (default: 100)")
    parser.add_argument("--polls", type=int, default=20, help="clients that poll each second (default: 20)")
    parser.add_argument(
        "--changing", type=int, default=20, help="clients that change between stream and poll (default: 20)"
    )
    parser.add_argument(
        "--standard", type=int, default=20, help="clients that know Last-Event-ID alone, and are cut (default: 20)"
    )
    parser.add_argument(
        "--rate", type=float, default=500, help="events per second in the busiest of five channels (default: 500)"
    )
    options = parser.parse_args()

    print(
        f"{options.streams} streams, {options.polls} polling, {options.changing} changing and {options.standard} "
        f"standard clients, up to {options.rate:g} events/s in a channel for {options.seconds:g} s, {options.broker} "
        "gunicorn with 3 workers behind nginx",
        flush=True,
    )
    accounts = asyncio.run(
        run(
            options.broker,
            options.seconds,
            streams=options.streams,
            polls=options.polls,
            changing=options.changing,
            standard=options.standard,
            rate=options.rate,
            say=lambda text: print(text, flush=True),
        )
    )
    print(f"\n{HEAD}")
    for account in accounts:
        print(row(account))
    total = Account.sum(accounts)
    print(f"{HEAD}\n{row(total)}\n")
    print("Every client saw every event once and in order." if total.faultless else "FAILED: see the rows above.")
    return 0 if total.faultless and all(account.expected for account in accounts) else 1


if __name__ == "__main__":
    sys.exit(main())
