/*
 * NUMA scheduler: the files of DAMON
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "damon-sysfs.h"
#include "parse.h"

#define TRIES   100
#define PAUSE   1000                    /* us */

/* Every value is written at once: the kernel takes each write for a whole. */
static int put_once(int dir, const char *name, const char *value)
{
    int fd = openat(dir, name, O_WRONLY | O_TRUNC | O_CLOEXEC);
    size_t len = strlen(value);
    ssize_t n;

    if (fd < 0) {
        return -errno;
    }
    n = RETRY_ON_EINTR(write(fd, value, len));
    n = n < 0 ? -errno : n == len ? 0 : -EIO;
    close(fd);
    return n;
}

static int get_once(int dir, const char *name, char *value)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0) {
        return -errno;
    }
    n = RETRY_ON_EINTR(read(fd, value, NS_DAMON_VALUE));
    n = n < 0 ? -errno : n == NS_DAMON_VALUE ? -EFBIG : n;
    close(fd);
    return n;
}

int ns_damon_put(int dir, const char *name, const char *value)
{
    int ret = put_once(dir, name, value);

    for (int i = 0; ret == -EBUSY && i < TRIES; i++) {
        g_usleep(PAUSE);
        ret = put_once(dir, name, value);
    }
    return ret;
}

int ns_damon_get(int dir, const char *name, char value[NS_DAMON_VALUE])
{
    int ret = get_once(dir, name, value);

    for (int i = 0; ret == -EBUSY && i < TRIES; i++) {
        g_usleep(PAUSE);
        ret = get_once(dir, name, value);
    }
    value[MAX(ret, 0)] = 0;
    value[strcspn(value, "\n")] = 0;
    return MIN(ret, 0);
}

bool ns_damon_is(int dir, const char *name, const char *value)
{
    char found[NS_DAMON_VALUE];

    return !ns_damon_get(dir, name, found) && !strcmp(found, value);
}

bool ns_damon_number(int dir, const char *name, uint64_t *value)
{
    char found[NS_DAMON_VALUE];

    return !ns_damon_get(dir, name, found) &&
           ns_parse_number(found, strlen(found), UINT64_MAX, value);
}
