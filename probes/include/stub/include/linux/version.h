/* Nothing depends on the kernel's version: its types come from BTF. This is agentwatch's floor. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
