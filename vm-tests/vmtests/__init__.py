"""The tests on other kernels: `./dev vm`."""
