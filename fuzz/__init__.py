"""Fuzz targets: `check(data)` takes any bytes and raises if a promise is broken. `python -m fuzz --help` runs them.

Without atheris they are plain functions: `make test` replays the corpora through them.
"""
