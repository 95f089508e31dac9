"""The steps of a run that answers: its model is called, its tools are run."""
