/*
 * Fuzzer: the replica's journal
 *
 * Input: a mode (1 byte), then
 *   mode 0: a journal as it is;
 *   else:   a superblock and marks that are right, and after them a log whose
 *           records get right magic, salt, chain and checksums (mode bit 1:
 *           payload checksums too, and the digest of COMMIT).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "hw/mem/pmem-ha-media.h"
#include "tools/qemu-pmem-replica/journal.h"
#include "tools/qemu-pmem-replica/journal-format.h"

#include "fuzz.h"

#define SIZE (16 * PMEM_HA_PAGE_SIZE)
#define FUZZ_MAX_INPUT (256 * KiB)

static uint8_t image[SIZE];

static bool apply(void *opaque, uint64_t offset, uint64_t length,
                  const uint8_t *data, Error **errp)
{
    if (length > SIZE || offset > SIZE - length) {
        abort();
    }
    if (data) {
        memcpy(image + offset, data, length);
    } else {
        memset(image + offset, 0, length);
    }
    return true;
}

static int no_sync(int fd)
{
    return 0;
}

static void put(int fd, const void *buf, size_t len, uint64_t offset)
{
    if (pwrite(fd, buf, len, offset) != len) {
        abort();
    }
}

/* Make records of the input, as far as it reaches. */
static void put_log(int fd, uint8_t *data, size_t size, uint64_t salt,
                    bool deep)
{
    uint64_t pos = JOURNAL_LOG_BASE;
    uint32_t digest = 0;
    uint32_t chain = 0;

    while (size >= JOURNAL_RECORD_SIZE) {
        JournalRecord r = {
            .type = lduw_le_p(data + 4) % 5,
            .flags = lduw_le_p(data + 6),
            .salt = salt,
            .generation = 1,
            .epoch = ldq_le_p(data + 24) % 8,
            .arg0 = ldq_le_p(data + 32),
            .arg1 = ldq_le_p(data + 40),
            .sum = ldl_le_p(data + 48),
            .chain = chain,
        };
        uint8_t head[JOURNAL_RECORD_SIZE];
        size_t len = 0;

        data += JOURNAL_RECORD_SIZE;
        size -= JOURNAL_RECORD_SIZE;
        if (r.type == RECORD_DATA && !(r.flags & RECORD_ZERO)) {
            len = MIN(size, r.arg1);
        }
        if (deep && r.type == RECORD_DATA) {
            r.sum = pmem_ha_wire_crc(data, len);
            digest = pmem_ha_wire_digest(digest, &(PmemHaMsg) {
                .flags = r.flags & RECORD_ZERO ? PMEM_HA_FLAG_ZERO : 0,
                .arg0 = r.arg0, .arg1 = r.arg1, .payload_crc = r.sum,
            });
        }
        if (deep && r.type == RECORD_BEGIN) {
            digest = 0;
        }
        if (deep && r.type == RECORD_COMMIT) {
            r.sum = digest;
        }
        chain = journal_encode_record(&r, head);
        put(fd, head, sizeof(head), pos);
        put(fd, data, len, pos + sizeof(head));
        pos += sizeof(head) + len;
        data += len;
        size -= len;
    }
}

static void read_all(const char *path)
{
    g_autofree uint8_t *buf = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    JournalCursor c;
    Journal *j = journal_open(path, SIZE, NULL);

    if (!j) {
        return;
    }
    c = journal_base(j);
    while (c.pos < j->end.pos) {
        if (!journal_read_epoch(j, &c, buf, apply, NULL, NULL, NULL)) {
            abort();    /* what was found whole must be readable */
        }
    }
    if (c.epoch != j->end.epoch || (j->damage && !*j->damage)) {
        abort();
    }
    if (!j->damage && !j->super.promoted && j->end.epoch < UINT64_MAX - 2) {
        if (!journal_checkpoint(j, 0, NULL) ||
            journal_begin(j, j->end.epoch + 1, NULL) < 0 ||
            journal_commit(j, 0, 0, 0, NULL) < 0 ||
            journal_sync(j, NULL) < 0 || journal_mark(j, NULL) < 0) {
            abort();
        }
    }
    journal_close(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const PmemHaMediaHooks hooks = { .sync = no_sync };
    g_autofree uint8_t *copy = NULL;
    g_autofree char *path = NULL;
    uint8_t mode;
    int fd;

    if (size < 1 || size > FUZZ_MAX_INPUT) {
        return 0;
    }
    mode = *data++;
    size--;
    copy = g_memdup2(data, size);
    fd = memfd_create("journal", 0);
    if (fd < 0) {
        abort();
    }
    path = g_strdup_printf("/proc/self/fd/%d", fd);
    pmem_ha_media_set_hooks(&hooks);

    if (mode == 0) {
        put(fd, copy, size, 0);
    } else {
        Journal *j = journal_open(path, SIZE, &error_abort);
        uint64_t salt = j->super.salt;

        if (mode & 4) {
            journal_mark(j, &error_abort);
        }
        journal_close(j);
        put_log(fd, copy, size, salt, mode & 2);
    }
    read_all(path);
    close(fd);
    return 0;
}
