/* Paths by walking dentries: bpf_d_path is refused in raw tracepoints.
 *
 * Names are written from the leaf to the root, each ended by NUL; user space turns them
 * round. The walk crosses mounts and ends at the root of the mount namespace.
 */
#pragma once

#include <aw.h>

#define PATH_DEPTH 40   /* names and mounts crossed */
#define PATH_BYTES 1024 /* a power of two */
#define NAME_BYTES 256

INLINE struct mount *mount_of(struct vfsmount *vfsmount) {
    return (void *)((u64)vfsmount - __builtin_offsetof(struct mount, mnt));
}

/* Writes the names of a path; data has room for PATH_BYTES + NAME_BYTES. False if cut short.
 *
 * The count is kept in the record and read back in each round: the verifier knows nothing of
 * it then, so that all rounds look alike to it and it need not follow every combination.
 */
INLINE bool write_path(struct path *path, u8 *data, u16 *length) {
    struct dentry *dentry = 0, *root = 0, *parent = 0;
    struct vfsmount *vfsmount = 0;
    struct mount *mount, *above = 0;
    const u8 *name = 0;
    u32 used;
    long written;
    bool whole = false;
    int i;

    READ(dentry, path->dentry);
    READ(vfsmount, path->mnt);
    mount = mount_of(vfsmount);
    *length = 0;
    REPEAT(i, PATH_DEPTH) {
        used = *length;
        READ(root, mount->mnt.mnt_root);
        READ(parent, dentry->d_parent);
        /* A memfd hangs nowhere: it is its own parent, and its name is all there is. */
        if (dentry == root || (dentry == parent && used)) {
            READ(above, mount->mnt_parent);
            if (!above || above == mount) {
                whole = true;
                break;
            }
            READ(dentry, mount->mnt_mountpoint);
            mount = above;
            continue;
        }
        if (used >= PATH_BYTES)
            break;
        READ(name, dentry->d_name.name);
        /* Or the mask is taken for needless after the test above, which the verifier has forgotten.
         */
        asm volatile("" : "+r"(used));
        written = read_kernel_str(data + (used & (PATH_BYTES - 1)), NAME_BYTES, name);
        if (written <= 0)
            break;
        *length = used + written;
        dentry = parent;
    }
    return whole;
}
