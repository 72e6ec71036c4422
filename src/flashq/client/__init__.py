"""FlashQ over HTTP: `Client` and `AsyncClient`, on one core of operations that does no I/O."""
