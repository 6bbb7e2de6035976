/*
 * Page map: the messages of the section and of the return path
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no I/O, no QEMU state.  The format is in
 * docs/devel/migration/page-map.rst.
 */

#ifndef MIGRATION_PAGEMAP_WIRE_H
#define MIGRATION_PAGEMAP_WIRE_H

#include "tag.h"

#define PM_PAGE_BITS        12
#define PM_PAGE_SIZE        (1u << PM_PAGE_BITS)
#define PM_WIRE_VERSION     1
#define PM_MAX_DEVICES      64
#define PM_MAX_PROBES       32
#define PM_MAX_ID           1024    /* bytes of a device's id */
#define PM_MAX_RUN          256     /* pages */
#define PM_MAX_BATCH        2048    /* pages */
#define PM_MAX_IN_FLIGHT    32768   /* pages */
#define PM_MAX_BODY         (16 * 1024)
#define PM_HEADER_SIZE      6
#define PM_RP_MAX           512     /* a message of the return path */

typedef enum PmMsgType {
    PM_MSG_END = 0,
    PM_MSG_HELLO = 1,
    PM_MSG_DEVICE = 2,
    PM_MSG_BLOCK = 3,
    PM_MSG_RUN = 4,
    PM_MSG_COMMIT = 5,
    PM_MSG_FINISH = 6,
    PM_MSG_SNAPSHOT = 7,
} PmMsgType;

typedef enum PmDeviceVerdict {
    PM_DEV_SAME = 0,
    PM_DEV_ABSENT = 1,
    PM_DEV_LENGTH = 2,
    PM_DEV_CONTENT = 3,
    PM_DEV_UNREADABLE = 4,
    PM_DEV_FORBIDDEN = 5,
    PM_DEV__MAX
} PmDeviceVerdict;

typedef struct PmProbe {
    uint64_t offset;
    PmTag tag;
} PmProbe;

typedef struct PmDevice {
    uint16_t number;
    uint64_t length;            /* bytes */
    char id[PM_MAX_ID + 1];     /* not empty, no NUL inside */
    uint16_t n_probes;
    PmProbe probes[PM_MAX_PROBES];
} PmDevice;

typedef struct PmRunPage {
    uint16_t block;
    uint32_t page;
    PmTag tag;
} PmRunPage;

typedef struct PmRun {
    uint32_t batch;
    uint16_t device;
    uint64_t offset;            /* of the first page; a multiple of 512 */
    uint16_t n;                 /* 1 .. PM_MAX_RUN */
    PmRunPage pages[PM_MAX_RUN];
} PmRun;

typedef struct PmHello {
    uint32_t version;
    uint32_t page_size;
    PmKey key;
} PmHello;

typedef struct PmBlockName {
    uint16_t number;
    char name[256];
} PmBlockName;

typedef struct PmCommit {
    uint32_t batch;
    uint16_t n;                 /* 1 .. PM_MAX_BATCH */
} PmCommit;

/*
 * Writers: append the whole message, header included, to @out.  The caller
 * keeps the bounds above (asserted: they are ours, not the peer's).
 */
void pm_put_hello(GByteArray *out, const PmHello *m);
void pm_put_device(GByteArray *out, const PmDevice *m);
void pm_put_block(GByteArray *out, const PmBlockName *m);
void pm_put_run(GByteArray *out, const PmRun *m);
void pm_put_commit(GByteArray *out, const PmCommit *m);
void pm_put_finish(GByteArray *out);
void pm_put_snapshot(GByteArray *out);
void pm_put_end(GByteArray *out);

/*
 * pm_get_header: the type and the length of the body of a message
 *
 * @buf: PM_HEADER_SIZE bytes
 *
 * False with @errp set: unknown type, a body longer than PM_MAX_BODY, or END,
 * FINISH or SNAPSHOT with a body.
 */
bool pm_get_header(const uint8_t *buf, PmMsgType *type, uint32_t *len,
                   Error **errp);

/*
 * Readers of a body of @len bytes.  False with @errp set if it is too short,
 * has bytes left over, or a field is out of its range (another version or page
 * size too).  A device's probes and a run's offsets are multiples of 512, and
 * offset + bytes does not overflow an int64_t; that they lie within the device
 * is for the caller to check.  Batch 0 is refused.
 */
bool pm_get_hello(const uint8_t *buf, size_t len, PmHello *m, Error **errp);
bool pm_get_device(const uint8_t *buf, size_t len, PmDevice *m, Error **errp);
bool pm_get_block(const uint8_t *buf, size_t len, PmBlockName *m,
                  Error **errp);
bool pm_get_run(const uint8_t *buf, size_t len, PmRun *m, Error **errp);
bool pm_get_commit(const uint8_t *buf, size_t len, PmCommit *m, Error **errp);

/*
 * pm_device_name: of a device's id what the user has given with id=
 *
 * An id may be a path in the QOM tree: what has the disk of a virtio-blk-pci
 * is a part of it.  To be freed by the caller.
 */
char *pm_device_name(const char *id);

/* The return path */

typedef enum PmRpType {
    PM_RP_DEVICES = 0,
    PM_RP_BATCH = 1,
} PmRpType;

typedef struct PmRp {
    PmRpType type;
    uint16_t n;                             /* devices or pages */
    struct {
        uint16_t number;
        uint8_t verdict;                    /* PmDeviceVerdict */
    } devices[PM_MAX_DEVICES];              /* PM_RP_DEVICES */
    uint32_t batch;                         /* PM_RP_BATCH, and so on */
    uint32_t bytes;                         /* read from disks for it */
    uint16_t requests;                      /* to disks */
    /* Microseconds with pages to fetch, since the answer before this one */
    uint32_t busy_us;
    uint8_t placed[PM_MAX_BATCH / 8];       /* bit i & 7 of byte i >> 3 */
} PmRp;

/* Returns the number of bytes written to @buf, at most PM_RP_MAX */
size_t pm_put_rp(uint8_t buf[PM_RP_MAX], const PmRp *m);
bool pm_get_rp(const uint8_t *buf, size_t len, PmRp *m, Error **errp);

#endif
