"""SSE beside polling, measured: the same events at the same times for the same number of clients.

Three parts, as in any measuring. Collect: `http` counts bytes, `clients` read, `updates` are what they read,
`servers` run what is measured, `arms` bring them together. Summarise: `results`, and `capacity` for what follows from
them. Print: `terminal` and `html`. The management command `compare` is the way in.
"""
