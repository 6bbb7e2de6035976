/*
 * Fuzzer: messages of the page map
 *
 * Input: a mode (1 byte: bit 0 makes the lengths in the headers right, so that
 * the bodies are reached; bit 1 is the return path), then for the section a
 * stream of messages, for the return path one message.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "migration/pagemap/wire.h"

#include "fuzz.h"

static void check_error(Error *err)
{
    if (!err || !*error_get_pretty(err)) {
        abort();
    }
    error_free(err);
}

/* What is accepted must survive being written and read again. */
static void same(const GByteArray *out, size_t skip, const uint8_t *buf,
                 size_t len)
{
    if (out->len != skip + len || memcmp(out->data + skip, buf, len)) {
        abort();
    }
}

static bool read_write(PmMsgType type, const uint8_t *buf, size_t len,
                       GByteArray *out, Error **errp)
{
    union {
        PmHello hello;
        PmDevice device;
        PmBlockName block;
        PmRun run;
        PmCommit commit;
    } m;

    switch (type) {
    case PM_MSG_HELLO:
        if (!pm_get_hello(buf, len, &m.hello, errp)) {
            return false;
        }
        pm_put_hello(out, &m.hello);
        return true;
    case PM_MSG_DEVICE:
        if (!pm_get_device(buf, len, &m.device, errp)) {
            return false;
        }
        pm_put_device(out, &m.device);
        return true;
    case PM_MSG_BLOCK:
        if (!pm_get_block(buf, len, &m.block, errp)) {
            return false;
        }
        pm_put_block(out, &m.block);
        return true;
    case PM_MSG_RUN:
        if (!pm_get_run(buf, len, &m.run, errp)) {
            return false;
        }
        pm_put_run(out, &m.run);
        return true;
    case PM_MSG_COMMIT:
        if (!pm_get_commit(buf, len, &m.commit, errp)) {
            return false;
        }
        pm_put_commit(out, &m.commit);
        return true;
    case PM_MSG_FINISH:
        pm_put_finish(out);
        return true;
    case PM_MSG_SNAPSHOT:
        pm_put_snapshot(out);
        return true;
    case PM_MSG_END:
        pm_put_end(out);
        return true;
    }
    abort();
}

/* A copy of exactly @len bytes: the sanitizer sees what is read beyond it. */
static void check_body(PmMsgType type, const uint8_t *buf, size_t len)
{
    g_autofree uint8_t *copy = g_malloc(len);
    g_autoptr(GByteArray) out = g_byte_array_new();
    Error *err = NULL;

    if (len) {
        memcpy(copy, buf, len);
    }
    if (read_write(type, copy, len, out, &err)) {
        same(out, PM_HEADER_SIZE, buf, len);
    } else {
        check_error(err);
    }
}

static void check_rp(const uint8_t *buf, size_t len)
{
    g_autofree uint8_t *copy = g_malloc(len);
    uint8_t again[PM_RP_MAX];
    Error *err = NULL;
    PmRp m;

    if (len) {
        memcpy(copy, buf, len);
    }
    if (!pm_get_rp(copy, len, &m, &err)) {
        check_error(err);
    } else if (pm_put_rp(again, &m) != len || memcmp(again, buf, len)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool repair;

    if (size < 1) {
        return 0;
    }
    repair = data[0] & 1;
    if (data[0] & 2) {
        check_rp(data + 1, size - 1);
        return 0;
    }
    data++;
    size--;

    while (size >= PM_HEADER_SIZE) {
        uint8_t head[PM_HEADER_SIZE];
        Error *err = NULL;
        PmMsgType type;
        uint32_t len;

        memcpy(head, data, sizeof(head));
        data += sizeof(head);
        size -= sizeof(head);
        if (repair) {
            stw_be_p(head, lduw_be_p(head) % (PM_MSG_SNAPSHOT + 1));
            stl_be_p(head + 2, MIN(ldl_be_p(head + 2), size));
        }
        if (!pm_get_header(head, &type, &len, &err)) {
            check_error(err);
            return 0;
        }
        if (len > PM_MAX_BODY || type > PM_MSG_SNAPSHOT) {
            abort();
        }
        if (len > size) {
            return 0;
        }
        check_body(type, data, len);
        data += len;
        size -= len;
    }
    return 0;
}
