"""The one impure shelf of the kernel: environment, logging, telemetry, health, start and drain. For app.py and config.py alone."""
