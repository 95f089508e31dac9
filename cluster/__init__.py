"""For development: what docker-compose.yml describes, as processes on this machine. The product imports nothing from here."""
