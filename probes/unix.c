/* Unix sockets of an agent's cgroup: whom they connect to (kernel 6.7 and later). */
#include <aw.h>

#define SUN_PATH_BYTES 108
#define SUN_PATH_OFFSET 2 /* behind sun_family */

#ifdef HAVE_bpf_sock_addr_kern__uaddrlen /* `uaddr` alone is older */

/* kfunc; the number stands for it until the loader puts the running kernel's id in place. */
static void *(*bpf_cast_to_kern_ctx)(void *ctx) = (void *)KFUNC_bpf_cast_to_kern_ctx;

/* cgroup/connect_unix */
int on_unix_connect(struct bpf_sock_addr *ctx) {
    struct agent *agent = bpf_get_local_storage(MAP(AGENTS), 0);
    struct bpf_sock_addr_kern *kernel = bpf_cast_to_kern_ctx(ctx);
    struct aw_unix_connect *event;
    void *address = 0;
    u32 length = 0;

    if (!agent->number)
        return 1;
    READ(address, kernel->uaddr);
    READ(length, kernel->uaddrlen);
    event = bpf_ringbuf_reserve(MAP(RECORDS), sizeof(*event) + SUN_PATH_BYTES, 0);
    if (!reserved(event, agent->number, AW_UNIX_CONNECT))
        return 1;
    fill_header(&event->header, AW_UNIX_CONNECT, agent->number);
    fill_current(&event->header);
    event->cookie = bpf_get_socket_cookie(ctx);
    event->socktype = ctx->type;
    length -= SUN_PATH_OFFSET;
    event->length = length > SUN_PATH_BYTES ? SUN_PATH_BYTES : length;
    read_kernel(event->data, SUN_PATH_BYTES, address + SUN_PATH_OFFSET);
    submit(event, URGENT);
    return 1;
}

#endif
