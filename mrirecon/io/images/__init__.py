"""Volumes of magnitude images: NIfTI and DICOM."""
