/*
 * pmem-ha: messages between a primary and its replica
 *
 * Source: docs/interop/pmem-ha-protocol.rst, which is the specification.
 *
 * Pure code: no QEMU glue, no I/O, no locks.  Every function may be called
 * from any thread.  Nothing read from a peer is trusted: the decoders check
 * each field against its range before the caller sees it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_WIRE_H
#define HW_MEM_PMEM_HA_WIRE_H

#include "qemu/uuid.h"

#define PMEM_HA_WIRE_MAGIC        0x41484d50u   /* "PMHA", little endian */
#define PMEM_HA_WIRE_VERSION      1

/* Bytes of an encoded header; all integers are little endian. */
#define PMEM_HA_WIRE_HEADER_SIZE  64

/* Largest payload of any message, in bytes.  A longer one is refused. */
#define PMEM_HA_WIRE_MAX_PAYLOAD  (1 * MiB)

/* Granularity of everything that is mirrored, in bytes. */
#define PMEM_HA_PAGE_SIZE         4096

/* Longest export name, in bytes without the terminating NUL. */
#define PMEM_HA_WIRE_MAX_NAME     255

/*
 * Highest generation or epoch that is taken from a peer.  At a million flushes
 * a second it is 146,000 years away; above it, the next number could wrap.
 */
#define PMEM_HA_MAX_NUMBER        (UINT64_C(1) << 62)

/* Longest text in REFUSE and FAIL, in bytes. */
#define PMEM_HA_WIRE_MAX_TEXT     1024

/*
 * Direction: P is the primary, R the replica.
 *
 * HELLO    P>R  PmemHaHello; the first message of a connection
 * WELCOME  R>P  PmemHaWelcome; the answer to an acceptable HELLO
 * REFUSE   R>P  arg0 = PmemHaRefusal, payload = UTF-8 text; then R closes
 * COPY     P>R  a full copy starts; arg0 = size.  DATA follows outside any
 *               epoch.  The copy counts from the commit of the first epoch
 *               that follows it (flag COMPLETES_COPY) and not before
 * DATA     P>R  arg0 = byte offset, arg1 = length, both multiples of the
 *               page size; the payload is the content, or with flag ZERO
 *               there is none and the range reads as zeroes
 * BEGIN    P>R  epoch = the epoch whose DATA follows
 * COMMIT   P>R  epoch = as in BEGIN; arg0 = number of DATA messages,
 *               arg1 = sum of their lengths, payload = 4 bytes digest
 *               (pmem_ha_wire_digest() over them in order)
 * ACK      R>P  epoch = highest epoch that is at the asked ack level
 * FENCED   R>P  generation = the one that took over; then R closes
 * PING     P>R  arg0 is echoed by PONG
 * PONG     R>P
 * CLEAN    P>R  the primary ends in order; epoch = its last one
 * FAIL     R>P  arg0 = PmemHaRefusal, payload = UTF-8 text: what was sent
 *               since the last ACK is not kept; then R closes
 */
typedef enum PmemHaMsgType {
    PMEM_HA_MSG_HELLO = 1,
    PMEM_HA_MSG_WELCOME,
    PMEM_HA_MSG_REFUSE,
    PMEM_HA_MSG_COPY,
    PMEM_HA_MSG_DATA,
    PMEM_HA_MSG_BEGIN,
    PMEM_HA_MSG_COMMIT,
    PMEM_HA_MSG_ACK,
    PMEM_HA_MSG_FENCED,
    PMEM_HA_MSG_PING,
    PMEM_HA_MSG_PONG,
    PMEM_HA_MSG_CLEAN,
    PMEM_HA_MSG_FAIL,
    PMEM_HA_MSG__MAX
} PmemHaMsgType;

#define PMEM_HA_FLAG_ZERO            (1u << 0)  /* DATA */
#define PMEM_HA_FLAG_COMPLETES_COPY  (1u << 1)  /* BEGIN and COMMIT */

/* In HELLO's payload: the generation ends, its image was handed over to us. */
#define PMEM_HA_HELLO_TAKE           (1u << 0)
/* Behind the name stand the further devices of a consistency group. */
#define PMEM_HA_HELLO_GROUP          (1u << 1)
/*
 * With TAKE: the sender has mapped the image, and wants to own it.  Last stands
 * which file that is.
 */
#define PMEM_HA_HELLO_ADOPT          (1u << 2)

typedef enum PmemHaRefusal {
    PMEM_HA_REFUSE_PROTOCOL = 1,   /* malformed or out of order */
    PMEM_HA_REFUSE_NO_EXPORT,      /* no export of that name */
    PMEM_HA_REFUSE_SIZE,
    PMEM_HA_REFUSE_SLOT,
    PMEM_HA_REFUSE_LABEL_SIZE,
    PMEM_HA_REFUSE_UUID,
    PMEM_HA_REFUSE_BUSY,           /* another primary is connected */
    PMEM_HA_REFUSE_DAMAGED,        /* the journal is; operator needed */
    PMEM_HA_REFUSE_NO_SPACE,       /* journal or image file system full */
    PMEM_HA_REFUSE_IO,             /* any other I/O error */
    PMEM_HA_REFUSE_WENT_ON,        /* newer than what was handed over */
    PMEM_HA_REFUSE_FILE,           /* ADOPT of another file than the image */
    PMEM_HA_REFUSE__MAX
} PmemHaRefusal;

/* Where an acknowledged epoch is at the replica; see docs/specs. */
typedef enum PmemHaAckLevel {
    PMEM_HA_ACK_RECEIVED = 0,      /* in the replica's memory, checked */
    PMEM_HA_ACK_JOURNALED,         /* on stable storage, in the journal */
    PMEM_HA_ACK_APPLIED,           /* on stable storage, in the image */
    PMEM_HA_ACK__MAX
} PmemHaAckLevel;

typedef struct PmemHaMsg {
    PmemHaMsgType type;
    uint32_t flags;
    uint32_t len;                  /* of the payload, bytes */
    uint64_t generation;
    uint64_t epoch;
    uint64_t arg0;
    uint64_t arg1;
    uint64_t seq;                  /* 0, 1, 2... per direction */
    uint32_t payload_crc;          /* crc32c; 0 when len is 0 */
} PmemHaMsg;

/*
 * One more device of a consistency group: its content follows that of the one
 * before it.
 */
typedef struct PmemHaMember {
    QemuUUID uuid;                 /* may be null */
    uint64_t size;                 /* of its backend, labels included */
    uint64_t label_size;
    uint32_t slot;
} PmemHaMember;

/* Bytes of an encoded member, and how many there are at most. */
#define PMEM_HA_MEMBER_SIZE    40
#define PMEM_HA_WIRE_MAX_MORE  7

typedef struct PmemHaHello {
    QemuUUID uuid;                 /* identity of the (first) device */
    uint64_t size;                 /* of all backends, labels included */
    uint64_t label_size;
    uint32_t slot;
    uint32_t ack;                  /* PmemHaAckLevel that is asked for */
    uint64_t captured;             /* last epoch captured, 0: none */
    uint64_t acked;                /* last epoch acknowledged, 0: none */
    uint64_t instance;             /* random, not 0; per run of the primary */
    uint32_t flags;                /* PMEM_HA_HELLO_* */
    char name[PMEM_HA_WIRE_MAX_NAME + 1];   /* of the export */
    unsigned n_more;
    PmemHaMember more[PMEM_HA_WIRE_MAX_MORE];
    QemuUUID host;                 /* with ADOPT: boot id of the host, */
    uint64_t file_dev;             /* st_dev and st_ino of the file */
    uint64_t file_ino;
} PmemHaHello;

typedef struct PmemHaWelcome {
    bool have_image;               /* a whole image is held */
    uint64_t generation;           /* of that image; 0 without one */
    uint64_t epoch;                /* last committed; 0 without one */
} PmemHaWelcome;

#define PMEM_HA_HELLO_FIXED    72  /* bytes before the name */
#define PMEM_HA_HELLO_FILE     32  /* bytes that ADOPT adds */
#define PMEM_HA_HELLO_MAX      (PMEM_HA_HELLO_FIXED + PMEM_HA_WIRE_MAX_NAME + \
                                PMEM_HA_WIRE_MAX_MORE * PMEM_HA_MEMBER_SIZE + \
                                PMEM_HA_HELLO_FILE)
#define PMEM_HA_WELCOME_SIZE   24

/* Encode @m into @buf (PMEM_HA_WIRE_HEADER_SIZE bytes); sets both CRCs. */
void pmem_ha_wire_encode(const PmemHaMsg *m, uint8_t *buf);

/*
 * Decode and check a header that came from a peer.  @region_size bounds
 * DATA ranges (0: not known yet, DATA is refused).  @expect_seq is the
 * sequence number that must come next.
 *
 * Returns: true and fills @m, or false with @errp set (bad magic, version,
 * CRC, type, flags, sequence, length or range; the message names which).
 */
bool pmem_ha_wire_decode(const uint8_t *buf, uint64_t region_size,
                         uint64_t expect_seq, PmemHaMsg *m, Error **errp);

/* Check a received payload against the header's CRC. */
bool pmem_ha_wire_check_payload(const PmemHaMsg *m, const void *payload,
                                Error **errp);

/* The CRC that goes into PmemHaMsg.payload_crc; 0 for no payload. */
uint32_t pmem_ha_wire_crc(const void *payload, size_t len);

/*
 * Extend the digest of an epoch by one DATA message.  Start with 0.  It
 * covers offset, length, flags and content (through payload_crc).
 */
uint32_t pmem_ha_wire_digest(uint32_t digest, const PmemHaMsg *data);

void pmem_ha_member_encode(const PmemHaMember *m, uint8_t *buf);
void pmem_ha_member_decode(const uint8_t *buf, PmemHaMember *m);
bool pmem_ha_member_is_equal(const PmemHaMember *a, const PmemHaMember *b);

/* HELLO: returns the payload's length; @buf holds PMEM_HA_HELLO_MAX bytes. */
size_t pmem_ha_hello_encode(const PmemHaHello *h, uint8_t *buf);
bool pmem_ha_hello_decode(const uint8_t *buf, size_t len, PmemHaHello *h,
                          Error **errp);

void pmem_ha_welcome_encode(const PmemHaWelcome *w, uint8_t *buf);
bool pmem_ha_welcome_decode(const uint8_t *buf, size_t len, PmemHaWelcome *w,
                            Error **errp);

/* For messages and traces; never NULL. */
const char *pmem_ha_msg_name(PmemHaMsgType type);
const char *pmem_ha_ack_name(PmemHaAckLevel level);

#endif
