"""The runtime environment of a process: devices, other hosts, signals, files, compile cache, live display."""
