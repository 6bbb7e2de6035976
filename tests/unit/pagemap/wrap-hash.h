/*
 * Page map: a hash that fails
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both names are the linker's (--wrap, in meson.build): the first is what QEMU
 * calls, the second is its own function.
 */

#ifndef TEST_PAGE_MAP_WRAP_HASH_H
#define TEST_PAGE_MAP_WRAP_HASH_H

#include "crypto/hash.h"

int __wrap_qcrypto_hash_bytesv(QCryptoHashAlgo alg, const struct iovec *iov,
                               size_t n, uint8_t **result, size_t *len,
                               Error **errp);
int __real_qcrypto_hash_bytesv(QCryptoHashAlgo alg, const struct iovec *iov,
                               size_t n, uint8_t **result, size_t *len,
                               Error **errp);

#endif
