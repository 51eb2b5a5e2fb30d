"""Lightning callbacks: pictures, speed, progress, provenance of a run."""
