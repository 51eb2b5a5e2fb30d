"""What watches a run: pictures, speed, progress, and the record of how it was made."""
