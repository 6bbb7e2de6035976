/*
 * Page map: tag of a page's content
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first 16 bytes of SHA-256 (FIPS 180-4) over a secret key and the page.  A
 * guest decides what pages and blocks contain, so an unkeyed checksum that is
 * easy to collide would let it have its own memory replaced; the key is new for
 * each migration.
 */

#ifndef MIGRATION_PAGEMAP_TAG_H
#define MIGRATION_PAGEMAP_TAG_H

typedef struct PmKey {
    uint8_t b[16];
} PmKey;

typedef struct PmTag {
    uint8_t b[16];
} PmTag;

/*
 * pm_key_new: draw a key
 *
 * False with @errp set if there is no source of randomness, or no SHA-256.
 */
bool pm_key_new(PmKey *key, Error **errp);

/*
 * pm_tag: tag of the 4096 bytes at @page
 *
 * Any thread.  The bytes may change meanwhile: the tag is then that of no
 * content.  If it cannot be computed, it is all zeroes.
 */
void pm_tag(const PmKey *key, const void *page, PmTag *tag);

/* pm_tag_equal: all zeroes equal nothing */
bool pm_tag_equal(const PmTag *a, const PmTag *b);

#endif
