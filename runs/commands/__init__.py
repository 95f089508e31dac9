"""What somebody asks for. Each command is a transaction that is done, or refused with nothing left behind."""
