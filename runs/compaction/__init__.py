"""Compaction: where a context is cut, and the summary that stands for what was cut off."""
