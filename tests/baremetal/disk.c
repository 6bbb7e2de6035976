/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: virtio-blk disks by the legacy interface, polled
 *
 * Each needs "disable-legacy=off".  They are numbered in the order of their
 * PCI addresses.
 */
#include "guest.h"

#define PCI_ADDRESS         0xcf8
#define PCI_DATA            0xcfc
#define PCI_COMMAND         0x04
#define PCI_BAR0            0x10
#define VIRTIO_BLK_ID       0x10011af4u

/* Registers in BAR 0 */
#define VIRTIO_GUEST_FEATURES   4
#define VIRTIO_QUEUE_PFN        8
#define VIRTIO_QUEUE_NUM        12
#define VIRTIO_QUEUE_SEL        14
#define VIRTIO_QUEUE_NOTIFY     16
#define VIRTIO_STATUS           18
#define VIRTIO_CAPACITY         20

#define FEATURE_FLUSH       (1u << 9)
#define STATUS_DRIVER_OK    7           /* acknowledged, driver, ready */

#define TYPE_READ           0
#define TYPE_WRITE          1
#define TYPE_FLUSH          4

#define MAX_DISKS           4
#define IO_BASE             0xc000
#define RING_BASE           0x300000
#define RING_STRIDE         0x10000
#define RING_MAX            1024
#define MAX_QUEUED          64

#define DESC_NEXT           1
#define DESC_WRITE          2           /* by the device */

typedef struct {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
} Desc;

typedef struct {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
} Avail;

typedef struct {
    uint16_t flags;
    uint16_t index;
} Used;

typedef struct {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} Header;

typedef struct {
    uint16_t io;
    uint16_t size;              /* descriptors */
    uint16_t desc_used;         /* by what was queued and is not done */
    uint16_t queued;
    volatile Desc *desc;
    volatile Avail *avail;
    volatile Used *used;
    Header header[MAX_QUEUED];
    volatile uint8_t status[MAX_QUEUED];
} Disk;

static Disk disks[MAX_DISKS];
static unsigned count;

static uint32_t pci_read(unsigned device, unsigned reg)
{
    outl(PCI_ADDRESS, 0x80000000 | device << 11 | reg);
    return inl(PCI_DATA);
}

static void pci_write(unsigned device, unsigned reg, uint32_t v)
{
    outl(PCI_ADDRESS, 0x80000000 | device << 11 | reg);
    outl(PCI_DATA, v);
}

static bool start(Disk *d, unsigned device, unsigned number)
{
    uintptr_t ring = RING_BASE + number * RING_STRIDE;

    d->io = IO_BASE + number * 0x80;
    pci_write(device, PCI_BAR0, d->io);
    pci_write(device, PCI_COMMAND, 5);          /* I/O, bus master */
    outb(d->io + VIRTIO_STATUS, 0);
    outb(d->io + VIRTIO_STATUS, 3);
    outl(d->io + VIRTIO_GUEST_FEATURES, FEATURE_FLUSH);
    outw(d->io + VIRTIO_QUEUE_SEL, 0);
    d->size = inw(d->io + VIRTIO_QUEUE_NUM);
    if (!d->size || d->size > RING_MAX) {
        return false;
    }
    memset((void *)ring, 0, RING_STRIDE);
    d->desc = (volatile Desc *)ring;
    d->avail = (volatile Avail *)(ring + d->size * sizeof(Desc));
    ring += d->size * sizeof(Desc) + sizeof(Avail) + 2 * (d->size + 1);
    d->used = (volatile Used *)((ring + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    outl(d->io + VIRTIO_QUEUE_PFN, (uintptr_t)d->desc / PAGE);
    outb(d->io + VIRTIO_STATUS, STATUS_DRIVER_OK);
    return true;
}

/* Number of disks */
unsigned disk_init(void)
{
    count = 0;
    for (unsigned device = 0; device < 32 && count < MAX_DISKS; device++) {
        if (pci_read(device, 0) == VIRTIO_BLK_ID) {
            if (!start(&disks[count], device, count)) {
                report("ERROR disk %u has no queue", (uint64_t)count);
                return 0;
            }
            count++;
        }
    }
    return count;
}

uint64_t disk_pages(unsigned disk)
{
    uint16_t io = disks[disk].io;

    return ((uint64_t)inl(io + VIRTIO_CAPACITY + 4) << 32 |
            inl(io + VIRTIO_CAPACITY)) / (PAGE / 512);
}

static void put(Disk *d, uint64_t address, uint32_t length, unsigned flags)
{
    volatile Desc *desc = &d->desc[d->desc_used++];

    desc->address = address;
    desc->length = length;
    desc->flags = flags;
    desc->next = d->desc_used;
}

static bool queue(Disk *d, uint32_t type, uint64_t page, uint64_t *at,
                  unsigned n)
{
    unsigned head = d->desc_used;
    unsigned q = d->queued;

    if (q >= MAX_QUEUED || head + n + 2 > d->size) {
        return false;
    }
    d->header[q].type = type;
    d->header[q].sector = page * (PAGE / 512);
    d->status[q] = 0xff;
    put(d, (uintptr_t)&d->header[q], sizeof(Header), DESC_NEXT);
    for (unsigned i = 0; i < n; i++) {
        put(d, at[i], PAGE,
            DESC_NEXT | (type == TYPE_READ ? DESC_WRITE : 0));
    }
    put(d, (uintptr_t)&d->status[q], 1, DESC_WRITE);
    d->avail->ring[(uint16_t)(d->avail->index + q) % d->size] = head;
    d->queued++;
    return true;
}

/*
 * Queue a request for @n pages from @page of the disk on; their addresses in
 * memory are @at[].  False if the queue has no room for it.
 */
bool disk_queue(unsigned disk, bool write, uint64_t page, uint64_t *at,
                unsigned n)
{
    return queue(&disks[disk], write ? TYPE_WRITE : TYPE_READ, page, at, n);
}

/* Hand all that was queued to the device, in one piece: it may merge it. */
void disk_kick(unsigned disk)
{
    Disk *d = &disks[disk];

    fence();
    d->avail->index += d->queued;
    fence();
    outw(d->io + VIRTIO_QUEUE_NOTIFY, 0);
}

/* Wait for all of it; false if any of it failed. */
bool disk_wait(unsigned disk)
{
    Disk *d = &disks[disk];
    bool ok = true;

    while (d->used->index != d->avail->index) {
        pause();
    }
    fence();
    for (unsigned i = 0; i < d->queued; i++) {
        ok &= !d->status[i];
    }
    d->queued = 0;
    d->desc_used = 0;
    return ok;
}

bool disk_flush(unsigned disk)
{
    if (!queue(&disks[disk], TYPE_FLUSH, 0, NULL, 0)) {
        return false;
    }
    disk_kick(disk);
    return disk_wait(disk);
}
