"""The code that all sections share: runs in child processes, samples, load, tables and the plot."""
