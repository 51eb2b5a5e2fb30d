"""Configs: the options of conf/, typed overrides, the allowlist of targets, composition."""
