"""SSE beside polling, measured: the same events at the same times for the same number of clients.

Three parts, as in any measuring. Collect: `http` counts bytes, `clients` read `updates`, `screens` are what their users
see, `servers` run what is measured, `arms` bring them together, `comparison` and `proxy` measure one after another.
Summarise: `results`, and `capacity` for what follows from them. Print: `terminal` and `html`, both from `figures`. The
management command `compare` is the way in.
"""
