"""Optimizer and schedule: how they are made, and how a resumed training goes on with others."""
