"""Everything that talks to the kernel: compile, cache, load, attach, rings, cgroups, feature probing."""
