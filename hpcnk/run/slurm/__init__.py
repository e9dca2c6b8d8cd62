"""Job scripts for Slurm: a site's header, the arithmetic of a plan, one body for all."""
