"""Workers: how they learn of runs, take them, keep them, and let go of them."""
