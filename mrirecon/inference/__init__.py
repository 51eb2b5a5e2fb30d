"""Trained models: checkpoints, exported folders, reconstruction of whole scans."""
