"""Every place where asyncio or the interpreter is patched; nothing is patched anywhere else."""
