"""Known to vLLM by an entry point; that it is there is all that is looked at."""
