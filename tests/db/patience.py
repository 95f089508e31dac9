"""How long the databases of most tests wait for whoever holds a transaction open."""

from db.engine import PostgresLimits

PATIENT = PostgresLimits(idle_in_transaction_s=20)
"""A machine that does tests may stand still for longer than a replica is given."""
