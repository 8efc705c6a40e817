"""Every place where asyncio or the interpreter is patched."""
