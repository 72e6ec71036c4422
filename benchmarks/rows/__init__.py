"""What is measured: a file per family of rows. `FAMILIES` of benchmarks.__main__ names them all."""
