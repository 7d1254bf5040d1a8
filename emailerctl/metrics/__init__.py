"""Figures for the monitoring: what there is to measure, and the memory that it is kept in."""
