/*
 * What libFuzzer calls: one input
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
