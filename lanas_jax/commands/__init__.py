"""The commands of ``lanas``, one file each: parse, call, print."""
