"""Runs: how they are asked for, who works on them, and how they end. `docs/protocol.md` has what clients see of it."""
