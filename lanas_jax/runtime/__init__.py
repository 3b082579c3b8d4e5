"""The runtime environment of a process: devices, hosts, signals, paths, numbers, errors, caches, live display."""
