"""The terminal: arguments, environment, text and JSON, progress, exit codes."""
