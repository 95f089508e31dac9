"""Tools: what an agent can be given, and how a call becomes a return."""
