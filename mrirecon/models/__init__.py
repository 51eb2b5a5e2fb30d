"""Reconstruction models: `model(masked_kspace, mask, acs_mask, size) -> image (b, y, x)`, in the units of the input."""
