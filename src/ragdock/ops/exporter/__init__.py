"""The exporter: what Docker knows of our containers, as metrics for Prometheus."""
