"""Everything that can go wrong, to a real site with many clients: is each event still seen once and in order?

python -m tests.chaos --broker db: --seconds 300
"""
