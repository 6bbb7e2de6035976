/*
 * Block backends: let one function see what devices transfer; say that inactive
 * nodes are read
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Block jobs and exports do not pass here: they use the coroutine functions of
 * a BlockBackend, devices the asynchronous ones.
 */

#ifndef SYSTEM_BLOCK_OBSERVER_H
#define SYSTEM_BLOCK_OBSERVER_H

#include "qemu/iov.h"

#define BLOCK_OBSERVER_MAX_ID 0x3fff

/*
 * BlockObserverFunc: a read or write with @qiov has ended, and its completion
 * was not reported yet: the buffers are still the device's
 *
 * @id: blk_observer_id(), or 0 if no ids are left
 * @ret: negative if it failed; some of it may have been done then
 *
 * In the thread of the request, in a coroutine; must not yield.
 */
typedef void BlockObserverFunc(BlockBackend *blk, uint16_t id, int64_t offset,
                               const QEMUIOVector *qiov, bool is_write,
                               int ret);

/*
 * Set and reset with qatomic_set().  Whoever resets it must not assume that no
 * call is under way.
 */
extern BlockObserverFunc *block_observer;

/*
 * How many incoming migrations read nodes that are inactive, while another
 * process writes the images: metadata that looks corrupt may only be old.
 * Incremented and decremented with qatomic_inc() and qatomic_dec().
 */
extern unsigned int block_inactive_readers;

/*
 * blk_observer_id: number of what the guest sees in this BlockBackend
 *
 * It is drawn at the first transfer that is observed, 0 before that, and not
 * used again in the life of the process.  Jobs and changes of the graph below
 * keep it; another medium has another one.
 *
 * Any thread.
 */
uint16_t blk_observer_id(BlockBackend *blk);

/* blk_observer_id_get: the same, but it is drawn now if there is none */
uint16_t blk_observer_id_get(BlockBackend *blk);

#endif
