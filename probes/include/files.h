/* Which file it is, whatever it is called: shared by those who see it written and those who see it
 * run. */
#pragma once

#include <aw.h>

/* Key of WRITTEN. The generation tells a file from a later one with the same inode number. */
struct file_id {
    u64 inode;
    u32 device;
    u32 generation;
};

INLINE struct file_id identify(struct inode *inode) {
    struct file_id id = {};
    struct super_block *super = 0;

    READ(id.inode, inode->i_ino);
    READ(id.generation, inode->i_generation);
    READ(super, inode->i_sb);
    READ(id.device, super->s_dev);
    return id;
}
