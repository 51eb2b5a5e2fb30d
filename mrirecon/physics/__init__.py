"""MR physics: pure functions of complex tensors."""
