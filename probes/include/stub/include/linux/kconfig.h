/* BCC looks for this file to believe that a folder holds kernel headers; without it, it runs
 * modprobe and tar to unpack the running kernel's. */
#define CONFIG_BPF_SYSCALL 1
