"""What is written for runs: by their own tasks through the worker's writer, and by commands in transactions of their own."""
