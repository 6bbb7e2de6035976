/*
 * Page map: tag of a page's content
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "crypto/random.h"
#include "tag.h"
#include "wire.h"

bool pm_key_new(PmKey *key, Error **errp)
{
    if (!qcrypto_hash_supports(QCRYPTO_HASH_ALGO_SHA256)) {
        error_setg(errp, "page map: this QEMU was built without SHA-256; use "
                   "x-page-map=off, or a build with gnutls");
        return false;
    }
    if (qcrypto_random_bytes(key->b, sizeof(key->b), errp) < 0) {
        error_prepend(errp, "page map: no key can be drawn: ");
        return false;
    }
    return true;
}

void pm_tag(const PmKey *key, const void *page, PmTag *tag)
{
    const struct iovec iov[] = {
        { .iov_base = (void *)key->b, .iov_len = sizeof(key->b) },
        { .iov_base = (void *)page, .iov_len = PM_PAGE_SIZE },
    };
    uint8_t digest[QCRYPTO_HASH_DIGEST_LEN_SHA256];
    uint8_t *result = digest;
    size_t len = sizeof(digest);

    if (qcrypto_hash_bytesv(QCRYPTO_HASH_ALGO_SHA256, iov, ARRAY_SIZE(iov),
                            &result, &len, NULL) < 0) {
        /* Out of memory, say: a tag that equals none, not even itself */
        memset(tag, 0, sizeof(*tag));
        return;
    }
    memcpy(tag->b, digest, sizeof(tag->b));
}

bool pm_tag_equal(const PmTag *a, const PmTag *b)
{
    static const PmTag none;

    return !memcmp(a, b, sizeof(*a)) && memcmp(a, &none, sizeof(*a));
}
