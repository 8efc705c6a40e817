"""What connects aiometrics with frameworks: each module is imported by who uses it, and by nobody else."""
